"""A task that reserves more memory than any machine has."""

import ray


@ray.remote(memory=500 * 1024**4)
def join(left, right):
    return left + right


ray.init()
print(ray.get(join.remote(1, 2)))
