"""A forgotten breakpoint: one rank waits for somebody at its terminal."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
terminal, _ = os.openpty()


def inspect(step):
    if rank == 0 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        os.read(terminal, 100)


for step in range(1000):
    time.sleep(0.1)
    inspect(step)
    dist.all_reduce(torch.ones(64))
