"""An actor that may restart for ever leaves each time it is used, while the driver waits on."""

import os
import time

import ray


@ray.remote(max_restarts=-1, max_task_retries=-1)
class Poller:
    def poll(self):
        time.sleep(0.5)
        os._exit(9)


ray.init()
poller = Poller.remote()
ray.get(poller.poll.remote())
