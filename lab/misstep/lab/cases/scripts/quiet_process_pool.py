"""A process of the driver's own pool dies; the driver does the work itself then."""

import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import ray


def prepare(n):
    os._exit(1)


@ray.remote
def train(rows):
    return len(rows)


if __name__ == "__main__":
    ray.init()
    try:
        with ProcessPoolExecutor(2) as pool:
            rows = list(pool.map(prepare, range(6)))
    except BrokenProcessPool:
        rows = list(range(6))
    print(ray.get(train.remote(rows)))
