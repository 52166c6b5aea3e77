"""An actor that ends its process whenever it is created."""

import os

import ray


@ray.remote(max_restarts=2)
class Worker:
    def __init__(self):
        os._exit(11)

    def work(self):
        return 1


ray.init()
worker = Worker.remote()
ray.get(worker.work.remote())
