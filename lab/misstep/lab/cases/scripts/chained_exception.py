"""A task that wraps a library's error in its own."""

import ray


class TrainingError(Exception):
    pass


def read(shard):
    raise OSError(5, "Input/output error", f"/data/shard-{shard}")


@ray.remote
def train(shard):
    try:
        return read(shard)
    except OSError as error:
        raise TrainingError(f"epoch failed at shard {shard}") from error


ray.init()
ray.get(train.remote(17))
