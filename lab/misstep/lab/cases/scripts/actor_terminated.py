"""Somebody sends SIGTERM to an actor's process."""

import os
import signal
import time

import ray


@ray.remote
class Store:
    def pid(self):
        return os.getpid()

    def put(self, key):
        time.sleep(0.1)
        return key


ray.init()
store = Store.remote()
pid = ray.get(store.pid.remote())
for key in range(60):
    if key == 15:
        os.kill(pid, signal.SIGTERM)
    ray.get(store.put.remote(key))
