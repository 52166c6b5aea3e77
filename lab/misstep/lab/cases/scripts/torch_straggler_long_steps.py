"""Steps of two seconds, of which one rank needs three."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(2000):
    if rank == 1 and step == 8:
        print(f"fault at {time.time()}", flush=True)
    time.sleep(3.0 if rank == 1 and step >= 8 else 2.0)
    dist.all_reduce(torch.ones(64))
