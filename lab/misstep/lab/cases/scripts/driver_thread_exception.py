"""A thread of the driver feeds the tasks; it meets a text where a number should be."""

import sys
import threading

import ray

results = []


@ray.remote
def square(x):
    return x * x


def feed(values):
    for value in values:
        results.append(ray.get(square.remote(int(value))))


ray.init()
thread = threading.Thread(target=feed, args=(["1", "2", "three"],))
thread.start()
thread.join()
sys.exit(0 if len(results) == 3 else 1)
