"""Rank 0 unpacks the data, the others wait for it."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def unpack():
    time.sleep(9)


if rank == 0:
    unpack()
dist.barrier()
for step in range(100):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
