"""One rank raises in every life that torchrun gives the job."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(100):
    time.sleep(0.1)
    if rank == 2 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        raise KeyError("label")
    dist.all_reduce(torch.ones(64))
