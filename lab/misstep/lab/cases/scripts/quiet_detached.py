"""Leaves a detached actor behind."""

import time

import ray


@ray.remote
class Registry:
    def get(self, key):
        return key


ray.init(namespace="shared")
registry = Registry.options(name="registry", lifetime="detached").remote()
print(ray.get(registry.get.remote("a")))
time.sleep(2)
