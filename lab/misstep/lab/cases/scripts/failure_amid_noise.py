"""Some failures are caught and some retried; one is not."""

import os
import time

import ray


@ray.remote(max_retries=3, retry_exceptions=True)
def flaky(path):
    with open(path, "a+") as file:
        file.seek(0)
        tries = len(file.read())
        file.write("x")
    if tries < 2:
        raise TimeoutError("the object store was slow")
    return tries


@ray.remote
def optional(i):
    raise LookupError(f"no cache entry {i}")


@ray.remote
def merge(parts):
    return sum(parts) + len(parts[0])


ray.init()
print(ray.get(flaky.remote(os.path.abspath("tries"))))
for i in range(5):
    try:
        ray.get(optional.remote(i))
    except LookupError:
        pass
time.sleep(2)
print(ray.get(merge.remote([1, 2, 3])))
