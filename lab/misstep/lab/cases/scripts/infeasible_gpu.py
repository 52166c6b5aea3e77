"""A training step that wants ninety-nine GPUs."""

import ray


@ray.remote(num_gpus=99)
def step(batch):
    return batch


@ray.remote
def load(n):
    return list(range(n))


ray.init()
print(ray.get(step.remote(load.remote(10))))
