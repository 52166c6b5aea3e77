"""A placement group takes all cores, and a task outside of it waits for one."""

import ray
from ray.util.placement_group import placement_group


@ray.remote(num_cpus=1)
def report():
    return "done"


ray.init(num_cpus=2)
group = placement_group([{"CPU": 2}])
ray.get(group.ready())
print(ray.get(report.remote()))
