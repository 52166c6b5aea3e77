"""Objects that do not fit into the store and are spilled."""

import ray


@ray.remote
def block(n):
    return bytes([n % 256]) * 20_000_000


ray.init(object_store_memory=100_000_000)
blocks = [block.remote(n) for n in range(15)]
print(sum(len(ray.get(b)) for b in blocks))
