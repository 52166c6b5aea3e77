"""One rank leaves out one of two reductions that look alike."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

world_group = dist.group.WORLD
other = dist.new_group(list(range(world)), group_desc="metrics")
for step in range(400):
    time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
    if rank == 2 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        continue
    dist.all_reduce(torch.ones(4), group=other)
