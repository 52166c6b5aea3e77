"""An actor holds the only license; a task waits for it, and the driver for the task."""

import ray


@ray.remote(resources={"license": 1})
class Session:
    def ready(self):
        return True


@ray.remote(resources={"license": 1})
def export(rows):
    return rows


ray.init(resources={"license": 1})
session = Session.remote()
ray.get(session.ready.remote())
print(ray.get(export.remote(10)))
