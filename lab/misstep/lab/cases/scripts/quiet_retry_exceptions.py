"""A task that fails twice and then succeeds, as its retries foresee."""

import os

import ray


@ray.remote(max_retries=4, retry_exceptions=[ConnectionError])
def download(path):
    with open(path, "a+") as file:
        file.seek(0)
        tries = len(file.read())
        file.write("x")
    if tries < 2:
        raise ConnectionError("reset by peer")
    return tries


ray.init()
print(ray.get(download.remote(os.path.abspath("tries"))))
