"""A machine of the cluster vanishes under its task."""

import time

import ray
from ray.cluster_utils import Cluster


@ray.remote(resources={"far": 1}, max_retries=0)
def crunch():
    time.sleep(60)


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
far = cluster.add_node(num_cpus=1, resources={"far": 1}, node_name="far-1")
ray.init(address=cluster.address)
task = crunch.remote()
time.sleep(6)
far.kill_raylet()
ray.get(task)
