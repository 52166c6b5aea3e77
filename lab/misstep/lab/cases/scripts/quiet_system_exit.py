"""A driver that leaves by sys.exit(0)."""

import sys

import ray


@ray.remote
def one():
    return 1


ray.init()
print(ray.get(one.remote()))
sys.exit(0)
