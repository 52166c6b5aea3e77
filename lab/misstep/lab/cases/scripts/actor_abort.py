"""An actor around a native library that aborts on bad input."""

import os

import ray


@ray.remote
class Encoder:
    def encode(self, frame):
        if frame == 3:
            os.abort()
        return frame


ray.init()
encoder = Encoder.remote()
for frame in range(8):
    ray.get(encoder.encode.remote(frame))
