"""The driver reports a task's failure as an error of its own."""

import ray


class PipelineError(Exception):
    pass


@ray.remote
def clean(row):
    return row.strip()


def main():
    try:
        return ray.get([clean.remote(row) for row in (" a", 7)])
    except AttributeError as error:
        raise PipelineError("cleaning failed") from error


ray.init()
print(main())
