"""A task that raises an exception which cannot be rebuilt from its arguments."""

import ray


class QuotaExceeded(Exception):
    def __init__(self, user, limit, *, unit):
        super().__init__(f"{user} is over {limit} {unit}")
        self.user, self.limit = user, limit


@ray.remote
def fetch(user):
    raise QuotaExceeded(user, 10, unit="GB")


ray.init()
ray.get(fetch.remote("ann"))
