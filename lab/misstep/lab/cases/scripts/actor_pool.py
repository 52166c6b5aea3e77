"""A pool of actors maps a method over items, one of which is bad."""

import ray
from ray.util import ActorPool


@ray.remote(num_cpus=0)
class Parser:
    def parse(self, line):
        return dict(pair.split("=") for pair in line.split(","))


ray.init()
pool = ActorPool([Parser.remote() for _ in range(2)])
print(list(pool.map(lambda actor, line: actor.parse.remote(line), ["a=1", "b=2,c=3", "d", "e=4"])))
