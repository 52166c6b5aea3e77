"""An argument that can be pickled on the way and not be read on arrival."""

import ray


class Handle:
    def __init__(self, path):
        self.path = path

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        raise OSError(f"cannot open {state['path']} here")


@ray.remote
def read(handle):
    return handle.path


ray.init()
print(ray.get(read.remote(Handle("/dev/decoder0"))))
