"""A pipeline whose second stage never runs, because the first one failed."""

import ray


@ray.remote
def produce(n):
    return [1 / (n - i) for i in range(5)]


@ray.remote
def scale(values):
    return [v * 2 for v in values]


@ray.remote
def total(values):
    return sum(values)


ray.init()
print(ray.get(total.remote(scale.remote(produce.remote(3)))))
