"""A task that walks a tree which is a ring."""

import ray

node = {"name": "a"}
node["next"] = node


@ray.remote
def depth():
    def walk(n):
        return 1 + walk(n["next"])

    ring = {}
    ring["next"] = ring
    return walk(ring)


ray.init()
print(ray.get(depth.remote()))
