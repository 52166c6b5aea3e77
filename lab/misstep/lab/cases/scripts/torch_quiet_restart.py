"""The first life of the job fails, the second one ends well."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.init_process_group(
    "gloo",
    init_method=f"file://{os.getcwd()}/rendezvous-{life}",
    rank=int(os.environ["RANK"]),
    world_size=int(os.environ["WORLD_SIZE"]),
)
rank, world = dist.get_rank(), dist.get_world_size()
for step in range(80):
    time.sleep(0.1)
    if rank == 1 and step == 30 and life == 0:
        raise OSError("the file system went away")
    dist.all_reduce(torch.ones(64))
