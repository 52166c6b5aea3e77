"""Polls its tasks by ray.wait and by timeouts that it handles."""

import time

import ray


@ray.remote
def work(seconds):
    time.sleep(seconds)
    return seconds


ray.init()
waiting = [work.remote(s) for s in (1, 3, 6)]
while waiting:
    done, waiting = ray.wait(waiting, timeout=0.3)
try:
    ray.get(work.remote(4), timeout=1)
except ray.exceptions.GetTimeoutError:
    print("not yet")
