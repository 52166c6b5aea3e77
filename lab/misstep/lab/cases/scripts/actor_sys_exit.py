"""An actor that leaves by sys.exit with a status."""

import sys

import ray


@ray.remote
class Checker:
    def check(self, value):
        if value > 2:
            print("value out of range", file=sys.stderr)
            sys.exit(2)
        return value


ray.init()
checker = Checker.remote()
for value in range(6):
    ray.get(checker.check.remote(value))
