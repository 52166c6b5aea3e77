"""An actor dies, and the driver replaces it."""

import os
import time

import ray


@ray.remote
class Server:
    def __init__(self, generation):
        self.generation = generation

    def serve(self, n):
        if n == 3 and self.generation == 0:
            os._exit(1)
        return n


ray.init()
server, served, generation = Server.remote(0), [], 0
while len(served) < 8:
    try:
        served.append(ray.get(server.serve.remote(len(served))))
    except ray.exceptions.RayActorError:
        generation += 1
        server = Server.remote(generation)
print(served)
time.sleep(3)
