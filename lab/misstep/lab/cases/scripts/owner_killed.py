"""An object outlives the actor that owns it, and is read afterwards."""

import time

import ray


@ray.remote
class Builder:
    def build(self):
        return [ray.put(bytes(2_000_000))]


ray.init()
builder = Builder.remote()
(reference,) = ray.get(builder.build.remote())
ray.kill(builder)
time.sleep(2)
print(len(ray.get(reference)))
