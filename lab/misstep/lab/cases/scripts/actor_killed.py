"""Somebody kills an actor's process from outside."""

import os
import signal
import time

import ray


@ray.remote
class Cache:
    def pid(self):
        return os.getpid()

    def get(self, key):
        time.sleep(0.1)
        return key


ray.init()
cache = Cache.remote()
pid = ray.get(cache.pid.remote())
for key in range(50):
    if key == 15:
        os.kill(pid, signal.SIGKILL)
    ray.get(cache.get.remote(key))
