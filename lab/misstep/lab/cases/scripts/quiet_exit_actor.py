"""An actor that leaves when its work is done."""

import time

import ray


@ray.remote
class Worker:
    def work(self):
        return 1

    def leave(self):
        ray.actor.exit_actor()


ray.init()
worker = Worker.remote()
print(ray.get(worker.work.remote()))
worker.leave.remote()
time.sleep(3)
