"""Starts Ray twice in one process."""

import ray


@ray.remote
def one():
    return 1


for _ in range(2):
    ray.init()
    print(ray.get(one.remote()))
    ray.shutdown()
