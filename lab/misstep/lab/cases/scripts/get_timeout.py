"""The driver gives up on a task that takes too long."""

import time

import ray


@ray.remote
def slow():
    time.sleep(60)


ray.init()
ray.get(slow.remote(), timeout=3)
