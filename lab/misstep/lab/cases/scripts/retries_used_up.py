"""A task that is tried again when it raises, and raises each time."""

import time

import ray


@ray.remote(max_retries=2, retry_exceptions=[ConnectionError])
def fetch(url):
    time.sleep(0.5)
    raise ConnectionError(f"{url} does not answer")


ray.init()
ray.get(fetch.remote("http://store.invalid"))
