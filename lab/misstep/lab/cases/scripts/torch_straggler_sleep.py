"""Every step of one rank takes longer; its pair hands the delay on to everybody."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

pairs = [dist.new_group([first, first + 1], group_desc=f"tp_{first // 2}") for first in range(0, world, 2)]


def load_batch(step):
    time.sleep(0.1)
    if rank == 2 and step >= 60:
        if step == 60:
            print(f"fault at {time.time()}", flush=True)
        time.sleep(0.15)


for step in range(2000):
    load_batch(step)
    dist.all_reduce(torch.ones(8), group=pairs[rank // 2])
    dist.all_reduce(torch.ones(64))
