"""A ring in which, from some step on, everybody receives before anybody sends."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
left, right = (rank - 1) % world, (rank + 1) % world


def pass_on(value, sends_first):
    got = torch.empty_like(value)
    if sends_first:
        dist.send(value, dst=right)
        dist.recv(got, src=left)
    else:
        dist.recv(got, src=left)
        dist.send(value, dst=right)
    return got


for step in range(1000):
    time.sleep(0.1)
    if step == 40 and rank == 0:
        print(f"fault at {time.time()}", flush=True)
    pass_on(torch.ones(64), rank == 0 and step < 40)
    if step % 5 == 0:
        dist.all_reduce(torch.ones(8))
