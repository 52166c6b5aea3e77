"""A healthy pipeline of sends and receives with a slow first stage, now and then slower."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def stage(step):
    time.sleep(4.0 if rank == 0 and step == 20 else 1.0 if rank == 0 else 0.2)


for step in range(40):
    activation = torch.ones(256)
    if rank > 0:
        dist.recv(activation, src=rank - 1)
    stage(step)
    if rank < world - 1:
        dist.send(activation, dst=rank + 1)
