"""Checks its result and leaves with a status of its own."""

import sys

import ray


@ray.remote
def accuracy(fold):
    return 0.4 + fold / 100


ray.init()
best = max(ray.get([accuracy.remote(fold) for fold in range(4)]))
if best < 0.9:
    sys.exit(3)
