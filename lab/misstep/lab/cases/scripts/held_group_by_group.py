"""One placement group takes all cores, and a second one waits for two of them."""

import ray
from ray.util.placement_group import placement_group

ray.init(num_cpus=3)
first = placement_group([{"CPU": 1}] * 3, name="training")
ray.get(first.ready())
second = placement_group([{"CPU": 2}], name="evaluation")
ray.get(second.ready())
