"""The driver prepares data in a pool of processes of its own, and one of those dies."""

import os
from concurrent.futures import ProcessPoolExecutor

import ray


def prepare(n):
    if n == 3:
        os._exit(1)
    return n


@ray.remote
def train(rows):
    return len(rows)


if __name__ == "__main__":
    ray.init()
    print(ray.get(train.remote([1, 2])))
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(prepare, range(6)))
    print(ray.get(train.remote(rows)))
