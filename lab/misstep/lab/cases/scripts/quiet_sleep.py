"""Nothing happens for a while, and that is all right."""

import time

import ray


@ray.remote
def nap():
    time.sleep(25)
    return 1


ray.init()
print(ray.get(nap.remote()))
