"""Prints what looks like trouble and is none."""

import logging
import sys
import time

import ray


@ray.remote
def chatty(n):
    logging.getLogger("app").error("Traceback (most recent call last): just quoting")
    print("ERROR: Segmentation fault (simulated in a message)", file=sys.stderr)
    print("CUDA out of memory. Tried to allocate 2.00 GiB")
    return n


ray.init()
print(sum(ray.get([chatty.remote(n) for n in range(20)])))
time.sleep(2)
