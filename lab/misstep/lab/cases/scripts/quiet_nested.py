"""Tasks that wait for tasks, deeper than there are cores."""

import ray


@ray.remote
def fibonacci(n):
    return n if n < 2 else sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


ray.init(num_cpus=2)
print(ray.get(fibonacci.remote(4)))
