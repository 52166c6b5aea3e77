"""Tasks that fail and whose results nobody asks for, and a stream that nobody reads to its end."""

import time

import ray


@ray.remote
def optional(n):
    raise LookupError(n)


@ray.remote
def stream():
    for n in range(100):  # noqa: UP028  (Ray sends into what it iterates, which a range does not take)
        yield n


ray.init()
pending = [optional.remote(n) for n in range(3)]
rows = stream.remote()
print(ray.get(next(rows)))
del rows
time.sleep(14)
