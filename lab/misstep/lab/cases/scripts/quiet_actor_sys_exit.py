"""An actor that leaves by sys.exit(0), and a driver that knows it."""

import sys
import time

import ray


@ray.remote
class Worker:
    def work(self):
        return 1

    def leave(self):
        sys.exit(0)


ray.init()
worker = Worker.remote()
print(ray.get(worker.work.remote()))
worker.leave.remote()
time.sleep(3)
