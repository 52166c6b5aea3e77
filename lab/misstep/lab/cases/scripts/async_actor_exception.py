"""An async actor that serves several requests at once; one of them is malformed."""

import asyncio

import ray


@ray.remote
class Server:
    async def handle(self, request):
        await asyncio.sleep(0.2)
        return 100 / request["weight"]


ray.init()
server = Server.remote()
print(ray.get([server.handle.remote({"weight": weight}) for weight in (1, 2, 0, 4)]))
