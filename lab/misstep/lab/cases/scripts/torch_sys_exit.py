"""One rank decides to leave, with a status of its own."""

import sys
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(1000):
    time.sleep(0.1)
    if rank == 2 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        sys.exit(3)
    dist.all_reduce(torch.ones(64))
