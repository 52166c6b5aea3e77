"""Somebody sends SIGTERM to the process of a task that is not retried."""

import os
import signal
import time

import ray


@ray.remote(max_retries=0)
def simulate(path):
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    for _ in range(300):
        time.sleep(0.1)


ray.init()
path = os.path.abspath("pid")
result = simulate.remote(path)
while not os.path.exists(path):
    time.sleep(0.2)
time.sleep(1)
os.kill(int(open(path).read()), signal.SIGTERM)
ray.get(result)
