"""One rank leaves out the reduction of a batch that it finds empty."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

loss = torch.ones(1)
for step in range(400):
    time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
    if rank == 1 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        continue
    dist.broadcast(loss, 0)
