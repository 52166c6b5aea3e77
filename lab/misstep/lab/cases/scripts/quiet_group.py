"""Work goes on for long inside a placement group; what waits outside gets its turn afterwards."""

import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(num_cpus=2)
def train():
    time.sleep(25)
    return 1


@ray.remote(num_cpus=1)
def report():
    return "done"


ray.init(num_cpus=2)
group = placement_group([{"CPU": 2}])
ray.get(group.ready())
trained = train.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote()
later = report.remote()
ray.get(trained)
remove_placement_group(group)
print(ray.get(later))
