"""A streaming generator that breaks in the middle of its stream."""

import ray


@ray.remote
def stream(rows):
    for row in rows:
        yield 10 // row


ray.init()
for block in stream.remote([5, 2, 1, 0, 3]):
    print(ray.get(block))
