"""More actors than cores, and the driver waits for all of them."""

import ray


@ray.remote(num_cpus=1)
class Replica:
    def ready(self):
        return True


ray.init(num_cpus=2)
replicas = [Replica.remote() for _ in range(4)]
print(ray.get([replica.ready.remote() for replica in replicas]))
