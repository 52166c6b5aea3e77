"""Stages that pass activations on by requests and sum their losses after each step, in one group; nothing is wrong."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(80):
    batch = torch.ones(256)
    if rank > 0:
        dist.irecv(batch, src=rank - 1).wait()
    time.sleep(0.05 + 0.02 * (step % 3))
    if rank < world - 1:
        dist.isend(batch, dst=rank + 1).wait()
    dist.all_reduce(batch.sum())
dist.destroy_process_group()
