"""Averages what tasks return; there is nothing to average."""

import ray


@ray.remote
def sample(n):
    return [x for x in range(n) if x > 100]


def mean(values):
    return sum(values) / len(values)


ray.init()
values = [x for part in ray.get([sample.remote(10) for _ in range(4)]) for x in part]
print(mean(values))
