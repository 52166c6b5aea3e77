"""A rank leaves without a word."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def train_step(step):
    if rank == 3 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        os._exit(7)


for step in range(400):
    time.sleep(0.15)
    train_step(step)
    dist.all_reduce(torch.ones(64))
