"""Tasks that are cancelled on purpose, gently and by force."""

import os
import time

import ray


@ray.remote(max_retries=0)
def endless(mark):
    open(mark, "w").close()
    while True:
        time.sleep(0.1)


ray.init(num_cpus=2)
marks = [os.path.abspath("gentle"), os.path.abspath("forced")]
gentle, forced = [endless.remote(mark) for mark in marks]
while not all(os.path.exists(mark) for mark in marks):
    time.sleep(0.2)
ray.cancel(forced, force=True)
while len(ray.wait([gentle, forced], num_returns=2, timeout=2)[0]) < 2:  # Ray can lose one on a busy machine
    ray.cancel(gentle)
    ray.cancel(forced, force=True)
for task in (gentle, forced):
    try:
        ray.get(task)
    except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
        print("cancelled")
time.sleep(2)
