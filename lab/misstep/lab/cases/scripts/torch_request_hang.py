"""Stages that pass activations on by requests and sum their losses after each step; one stage computes without an end."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def compute(batch, step):
    if step == 60 and rank == 2:
        print(f"fault at {time.time()}", flush=True)
        while True:
            batch = batch * 1.0
    time.sleep(0.05)
    return batch * 2


for step in range(1000):
    batch = torch.ones(256)
    if rank > 0:
        for request in dist.batch_isend_irecv([dist.P2POp(dist.irecv, batch, rank - 1)]):
            request.wait()
    batch = compute(batch, step)
    if rank < world - 1:
        for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, batch, rank + 1)]):
            request.wait()
    dist.all_reduce(batch.sum())
