"""One rank reduces one transposed matrix, and all goes on."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(200):
    time.sleep(0.15)
    gradient = torch.ones(4, 16)
    if rank == 0 and step == 60:
        print(f"fault at {time.time()}", flush=True)
        gradient = gradient.t().contiguous()
    dist.all_reduce(gradient)
