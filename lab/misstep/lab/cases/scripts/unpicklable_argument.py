"""An argument that cannot be rebuilt in the worker."""

import ray


class Handle:
    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        raise ConnectionError(f"cannot reopen {state['path']} here")


@ray.remote
def read(handle):
    return handle.path


ray.init()
ray.get(read.remote(Handle("db://rows")))
