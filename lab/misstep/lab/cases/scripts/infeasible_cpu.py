"""A task that wants more cores than the machine has."""

import ray


@ray.remote(num_cpus=512)
def build():
    return 1


ray.init()
print(ray.get(build.remote()))
