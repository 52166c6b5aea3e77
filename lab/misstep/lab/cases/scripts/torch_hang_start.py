"""One rank never gets its configuration, so the first collective of all never happens."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def load_config():
    if rank == 3:
        print(f"fault at {time.time()}", flush=True)
        while True:
            time.sleep(0.5)
    return 100


steps = torch.tensor(load_config())
dist.broadcast(steps, 0)
for _ in range(int(steps)):
    dist.all_reduce(torch.ones(8))
    time.sleep(0.2)
