"""A long job that its owner ends by Ctrl-C."""

import time

import ray


@ray.remote
def work():
    time.sleep(120)


ray.init()
tasks = [work.remote() for _ in range(3)]
print("working", flush=True)
ray.get(tasks)
