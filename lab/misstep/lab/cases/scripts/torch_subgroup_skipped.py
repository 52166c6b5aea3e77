"""One rank goes to the barrier of all without the sum of its half, in which its partner waits for it."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]

for step in range(1000):
    time.sleep(0.1)
    if rank == 2 and step == 40:
        print(f"fault at {time.time()}", flush=True)
    else:
        dist.all_reduce(torch.ones(64), group=halves[rank // 2])
    dist.all_reduce(torch.ones(8))
