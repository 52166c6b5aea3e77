"""One rank augments its samples the slow way."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def augment(step):
    seconds = 0.02
    if rank == 0 and step >= 100:
        if step == 100:
            print(f"fault at {time.time()}", flush=True)
        seconds = 0.12
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


for step in range(3000):
    augment(step)
    time.sleep(0.05)
    dist.all_reduce(torch.ones(64))
