"""One rank computes without an end."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def tokenize(step):
    if rank == 1 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        while step:
            step += 1


for step in range(400):
    tokenize(step)
    dist.all_reduce(torch.ones(64))
    time.sleep(0.15)
