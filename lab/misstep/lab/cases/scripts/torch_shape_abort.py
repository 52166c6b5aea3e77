"""One rank brings fewer numbers than the others."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(400):
    time.sleep(0.15)
    batch = 100 if rank == 1 and step == 30 else 64
    if batch == 100:
        print(f"fault at {time.time()}", flush=True)
    dist.all_reduce(torch.ones(batch))
