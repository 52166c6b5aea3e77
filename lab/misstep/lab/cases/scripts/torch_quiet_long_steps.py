"""A step takes six seconds, and ranks differ by one."""

import random
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

random.seed(rank)
for step in range(6):
    time.sleep(random.uniform(5, 6))
    dist.all_reduce(torch.ones(64))
