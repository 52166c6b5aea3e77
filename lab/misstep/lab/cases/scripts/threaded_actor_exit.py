"""An actor with several threads; the code behind one of its calls leaves the process with code 1."""

import os
import time

import ray


@ray.remote(max_concurrency=4)
class Gateway:
    def call(self, n):
        time.sleep(0.3)
        if n == 5:
            os._exit(1)
        return n


ray.init()
gateway = Gateway.remote()
print(ray.get([gateway.call.remote(n) for n in range(8)]))
