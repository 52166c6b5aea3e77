"""A call of an async actor is cancelled; the actor serves on."""

import asyncio
import time

import ray


@ray.remote
class Server:
    async def serve(self, seconds):
        await asyncio.sleep(seconds)
        return seconds


ray.init()
server = Server.remote()
ray.get(server.serve.remote(0))
call = server.serve.remote(60)
time.sleep(1)
ray.cancel(call)
try:
    ray.get(call)
except (ray.exceptions.TaskCancelledError, ray.exceptions.RayTaskError):
    print("cancelled")
print(ray.get(server.serve.remote(0.1)))
time.sleep(2)
