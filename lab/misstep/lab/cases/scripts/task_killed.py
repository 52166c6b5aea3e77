"""Somebody kills a task's process from outside."""

import os
import signal
import tempfile
import time

import ray


@ray.remote(max_retries=0)
def long(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(30)


ray.init()
with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/pid"
    task = long.remote(path)
    while not os.path.exists(path) or not open(path).read():
        time.sleep(0.1)
    time.sleep(2)
    os.kill(int(open(path).read()), signal.SIGKILL)
    ray.get(task)
