"""An actor that dies once and comes back."""

import os
import time

import ray


@ray.remote(max_restarts=2, max_task_retries=2)
class Phoenix:
    def work(self, path):
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return os.getpid()


ray.init()
phoenix = Phoenix.remote()
print(ray.get(phoenix.work.remote(os.path.abspath("tries"))))
time.sleep(3)
