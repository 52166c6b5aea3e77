"""A task for a machine with a scanner, and there is none."""

import ray


@ray.remote(resources={"scanner": 1})
def scan(page):
    return page


ray.init()
print(ray.get(scan.remote(1)))
