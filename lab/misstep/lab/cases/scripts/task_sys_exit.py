"""A task that calls a command-line function, which leaves by sys.exit."""

import sys

import ray


def main(arguments):
    if not arguments:
        sys.exit(2)


@ray.remote(max_retries=0)
def tool(arguments):
    main(arguments)
    return len(arguments)


ray.init()
print(ray.get([tool.remote(["a"]), tool.remote([])]))
