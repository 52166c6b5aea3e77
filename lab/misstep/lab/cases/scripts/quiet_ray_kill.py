"""Actors that are ended by ray.kill when they are no longer needed."""

import time

import ray


@ray.remote
class Worker:
    def work(self):
        return 1


ray.init()
workers = [Worker.remote() for _ in range(2)]
print(ray.get([worker.work.remote() for worker in workers]))
for worker in workers:
    ray.kill(worker)
time.sleep(3)
