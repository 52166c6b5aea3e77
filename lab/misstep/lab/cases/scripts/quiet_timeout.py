"""A driver that looks every second whether a slow task has come to its end."""

import time

import ray


@ray.remote
def slow():
    time.sleep(6)
    return "done"


ray.init()
result = slow.remote()
while True:
    try:
        print(ray.get(result, timeout=1))
        break
    except ray.exceptions.GetTimeoutError:
        print("not yet")
