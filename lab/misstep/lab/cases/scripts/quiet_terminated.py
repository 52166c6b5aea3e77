"""An actor is told to end by SIGTERM while it works, and comes back."""

import os
import signal
import time

import ray


@ray.remote(max_restarts=2, max_task_retries=2)
class Server:
    def pid(self):
        return os.getpid()

    def work(self):
        for _ in range(15):
            time.sleep(0.1)
        return 1


ray.init()
server = Server.remote()
pid = ray.get(server.pid.remote())
result = server.work.remote()
time.sleep(0.6)
os.kill(pid, signal.SIGTERM)
print(ray.get(result))
time.sleep(1)
