"""Tasks that have names of their own; one of them fails."""

import ray


@ray.remote
def load(shard):
    return [1, 2, 3][shard]


ray.init()
print(ray.get([load.options(name=f"load shard {n}").remote(n) for n in (0, 3)]))
