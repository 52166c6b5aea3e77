"""A task whose process dies once; Ray's retry succeeds."""

import os

import ray


@ray.remote(max_retries=3)
def fragile(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(1)
    return 1


ray.init()
print(ray.get(fragile.remote(os.path.abspath("tries"))))
