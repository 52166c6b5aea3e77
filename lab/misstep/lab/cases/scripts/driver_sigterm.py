"""The driver is told to end by SIGTERM, as a batch system does at its time limit."""

import os
import signal
import time

import ray


@ray.remote
def work():
    time.sleep(30)


ray.init()
task = work.remote()
time.sleep(3)
os.kill(os.getpid(), signal.SIGTERM)
ray.get(task)
