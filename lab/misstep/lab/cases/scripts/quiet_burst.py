"""Two thousand small tasks at once."""

import ray


@ray.remote
def square(x):
    return x * x


ray.init()
print(sum(ray.get([square.remote(x) for x in range(2000)])))
