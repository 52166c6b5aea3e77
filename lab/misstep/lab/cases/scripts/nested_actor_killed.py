"""A task makes an actor of its own; the actor's process is killed between two of its calls."""

import os
import signal

import ray


@ray.remote(num_cpus=0)
class Index:
    def pid(self):
        return os.getpid()

    def add(self, row):
        return row


@ray.remote
def ingest(rows):
    index = Index.remote()
    os.kill(ray.get(index.pid.remote()), signal.SIGKILL)
    return [ray.get(index.add.remote(row)) for row in range(rows)]


ray.init()
print(ray.get(ingest.remote(3)))
