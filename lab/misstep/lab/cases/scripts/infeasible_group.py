"""A placement group with a bundle that fits nowhere."""

import ray
from ray.util.placement_group import placement_group

ray.init()
group = placement_group([{"CPU": 1}, {"CPU": 256}], strategy="PACK")
ray.get(group.ready())
