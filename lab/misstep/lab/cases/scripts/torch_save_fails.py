"""Rank 0 saves for a while, longer than a step ever took, and then its disk is full."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def save():
    time.sleep(6)
    print(f"fault at {time.time()}", flush=True)
    raise OSError(28, "No space left on device", "/checkpoints/step-40.pt")


for step in range(1000):
    time.sleep(0.1)
    if rank == 0 and step == 40:
        save()
    dist.all_reduce(torch.ones(64))
