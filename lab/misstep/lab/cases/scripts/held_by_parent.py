"""Tasks that hold the only two slots while they wait for children that need one."""

import ray


@ray.remote(resources={"slot": 1})
def child(n):
    return n


@ray.remote(resources={"slot": 1})
def parent(n):
    return sum(ray.get([child.remote(i) for i in range(n)]))


ray.init(resources={"slot": 2})
print(ray.get([parent.remote(3), parent.remote(3)]))
