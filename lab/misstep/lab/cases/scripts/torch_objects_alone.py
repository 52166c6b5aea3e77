"""Only rank 0 gathers statistics, which everybody would have to."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(400):
    time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
    if rank == 0 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        found = [None] * world
        dist.all_gather_object(found, {"step": step})
