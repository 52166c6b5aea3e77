"""The driver is killed while its tasks run."""

import os
import signal
import time

import ray


@ray.remote
def work():
    time.sleep(30)


ray.init()
tasks = [work.remote() for _ in range(2)]
time.sleep(3)
os.kill(os.getpid(), signal.SIGKILL)
