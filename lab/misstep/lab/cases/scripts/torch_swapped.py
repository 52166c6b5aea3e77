"""One rank makes two calls in the other order."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

flag, gradient = torch.zeros(64), torch.ones(64)
for step in range(400):
    time.sleep(0.15)
    if rank == 3 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        dist.broadcast(flag, 0)
        dist.all_reduce(gradient)
    else:
        dist.all_reduce(gradient)
        dist.broadcast(flag, 0)
