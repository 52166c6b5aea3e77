"""More tasks than cores, for a good while."""

import time

import ray


@ray.remote
def work(n):
    time.sleep(4)
    return n


ray.init(num_cpus=2)
print(sum(ray.get([work.remote(n) for n in range(10)])))
