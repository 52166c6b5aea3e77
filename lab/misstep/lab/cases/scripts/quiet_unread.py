"""Tasks that fail and whose results nobody asks for, and a stream that nobody reads to its end."""

import time

import ray


@ray.remote
def optional(n):
    raise LookupError(n)


@ray.remote
def stream():
    yield from range(100)


ray.init()
pending = [optional.remote(n) for n in range(3)]
rows = stream.remote()
print(ray.get(next(rows)))
del rows
time.sleep(14)
