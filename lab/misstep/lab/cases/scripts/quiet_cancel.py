"""Tasks that are cancelled on purpose, gently and by force."""

import time

import ray


@ray.remote
def endless():
    while True:
        time.sleep(0.1)


ray.init()
gentle, forced = endless.remote(), endless.remote()
time.sleep(3)
ray.cancel(gentle)
ray.cancel(forced, force=True)
for task in (gentle, forced):
    try:
        ray.get(task)
    except (ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
        print("cancelled")
time.sleep(2)
