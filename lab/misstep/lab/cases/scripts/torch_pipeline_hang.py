"""Stages hand activations on from rank to rank; one gets stuck, and its neighbours wait in calls that nothing records."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def tokenize(step):
    if rank == 1 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        while True:
            time.sleep(1)


def run_stage(step):
    activation = torch.ones(256)
    if rank > 0:
        dist.recv(activation, src=rank - 1)
    tokenize(step)
    time.sleep(0.05)
    if rank < world - 1:
        dist.send(activation, dst=rank + 1)


for step in range(1000):
    run_stage(step)
    if step % 4 == 3:
        dist.all_reduce(torch.ones(1))
