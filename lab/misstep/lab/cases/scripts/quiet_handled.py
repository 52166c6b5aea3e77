"""Failures of tasks that the driver expects and handles."""

import time

import ray


@ray.remote
def risky(n):
    if n % 3 == 0:
        raise ValueError(f"{n} is divisible by three")
    return n


ray.init()
total = 0
for task in [risky.remote(n) for n in range(9)]:
    try:
        total += ray.get(task)
    except ValueError:
        total += 1
print(total)
time.sleep(3)
