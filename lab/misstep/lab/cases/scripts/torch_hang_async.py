"""Collectives are begun early and waited for late; one rank does not come to the second."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def read_next(step):
    if rank == 3 and step == 25:
        print(f"fault at {time.time()}", flush=True)
        os.read(os.pipe()[0], 1)


for step in range(400):
    first = dist.all_reduce(torch.ones(64), async_op=True)
    read_next(step)
    second = dist.all_reduce(torch.ones(32), async_op=True)
    first.wait()
    second.wait()
    time.sleep(0.15)
