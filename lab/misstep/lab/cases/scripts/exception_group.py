"""A task gathers what went wrong with its rows and raises it together."""

import ray


@ray.remote
def check(rows):
    wrong = []
    for row in rows:
        try:
            int(row)
        except ValueError as error:
            wrong.append(error)
    if wrong:
        raise ExceptionGroup("bad rows", wrong)


ray.init()
ray.get(check.remote(["1", "x", "y"]))
