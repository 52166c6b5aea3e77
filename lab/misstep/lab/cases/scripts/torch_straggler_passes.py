"""One rank is slow for a while and then is not."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(400):
    time.sleep(0.1)
    if rank == 3 and 50 <= step < 110:
        if step == 50:
            print(f"fault at {time.time()}", flush=True)
        time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
