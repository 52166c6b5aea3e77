"""A machine is drained and leaves in order."""

import time

import ray
from ray.cluster_utils import Cluster


@ray.remote
def work(n):
    time.sleep(0.2)
    return n


cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
extra = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address)
print(sum(ray.get([work.remote(n) for n in range(10)])))
cluster.remove_node(extra, allow_graceful=True)
time.sleep(5)
print(sum(ray.get([work.remote(n) for n in range(10)])))
