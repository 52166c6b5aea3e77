"""All ranks but the first have ended; it still writes the model."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(60):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
dist.destroy_process_group()
if rank == 0:
    time.sleep(10)
