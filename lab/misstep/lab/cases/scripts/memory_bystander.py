"""A task that keeps everything it reads, beside an actor that needs next to nothing."""

import os
import time

import ray


def used_and_total():
    fields = {line.split()[0]: int(line.split()[1]) for line in open("/proc/meminfo")}
    return fields["MemTotal:"] - fields["MemAvailable:"], fields["MemTotal:"]


@ray.remote(max_retries=0)
def hoard(blocks):
    kept = []
    for _ in range(blocks):
        kept.append(b"\1" * 20_000_000)
        time.sleep(0.07)
    return len(kept)


@ray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def add(self, n):
        self.n += n
        return self.n


used, total = used_and_total()
os.environ["RAY_memory_usage_threshold"] = f"{(used + 2_500_000) / total:.4f}"
os.environ["RAY_memory_monitor_refresh_ms"] = "250"
ray.init(num_cpus=2, object_store_memory=100_000_000)
counter = Counter.remote()
ray.get(counter.add.remote(1))
time.sleep(1)
task = hoard.remote(220)
while ray.wait([task], timeout=0.2)[1]:
    ray.get(counter.add.remote(1))
print(ray.get(task), ray.get(counter.add.remote(0)))
