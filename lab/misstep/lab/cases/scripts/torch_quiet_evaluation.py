"""Rank 0 evaluates every few steps, the others wait in a barrier."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def evaluate():
    time.sleep(1.5)


for step in range(200):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
    if step % 20 == 19:
        if rank == 0:
            evaluate()
        dist.barrier()
