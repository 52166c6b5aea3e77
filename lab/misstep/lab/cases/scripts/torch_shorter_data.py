"""One rank has one batch fewer, and ends well while the others wait for it."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

batches = 40 if rank == 2 else 41
for batch in range(batches):
    time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
if rank == 2:
    print(f"fault at {time.time()}", flush=True)
