"""A thread of the driver dies; the driver does not need it."""

import threading
import time

import ray


@ray.remote
def work():
    return 1


def report():
    raise ConnectionError("nobody takes reports here")


ray.init()
threading.Thread(target=report).start()
print(ray.get(work.remote()))
time.sleep(1)
