"""A task that needs a good deal of memory, and gets it."""

import time

import ray


@ray.remote
def sort(n):
    blocks = [b"\1" * 20_000_000 for _ in range(n)]
    time.sleep(3)
    return len(blocks)


ray.init()
print(ray.get(sort.remote(30)))
