"""Asks for a resource whose machine joins a little later."""

import time

import ray
from ray.cluster_utils import Cluster


@ray.remote(resources={"late": 1})
def work():
    return 1


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address)
task = work.remote()
time.sleep(4)
cluster.add_node(num_cpus=1, resources={"late": 1})
print(ray.get(task))
