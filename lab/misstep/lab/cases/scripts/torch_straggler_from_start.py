"""Eight ranks; one reads its data from a slow disk, from the first step on."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

if rank == 6:
    print(f"fault at {time.time()}", flush=True)
for step in range(2000):
    time.sleep(0.5 if rank == 6 else 0.3)
    dist.all_reduce(torch.ones(64))
    dist.all_reduce(torch.ones(1))
