"""The kernel kills a rank whose container has no memory left. Needs root and cgroup v1; elsewhere nothing happens."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
group = f"/sys/fs/cgroup/memory/misstep-lab-{os.getpid()}"
cache = []


def limit():
    os.mkdir(group)
    for name, value in (("memory.limit_in_bytes", 600 << 20), ("cgroup.procs", os.getpid())):
        with open(f"{group}/{name}", "w") as file:
            file.write(str(value))
    # The folder can go when its last process has gone, which is the one that cannot do it.
    if not os.fork():
        os.setsid()
        os.chdir("/")
        with open("/sys/fs/cgroup/memory/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        while os.path.exists(group):
            time.sleep(0.5)
            try:
                os.rmdir(group)
            except OSError:
                continue
        os._exit(0)


for step in range(400):
    if rank == 2 and step == 20:
        limit()
        print(f"fault at {time.time()}", flush=True)
    if rank == 2 and step > 20:
        cache.append(torch.ones(4 << 20))
    dist.all_reduce(torch.ones(64))
    time.sleep(0.1)
