"""Eight ranks in two kinds of groups, nothing wrong."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
for step in range(250):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(8), group=pairs[rank // 2])
    dist.all_reduce(torch.ones(64))
dist.destroy_process_group()
