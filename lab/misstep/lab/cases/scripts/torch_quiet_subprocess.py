"""Rank 0 has another program copy a checkpoint away, and the others wait for it in a barrier."""

import subprocess
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def copy_away():
    subprocess.run(["sleep", "20"], check=True)


for step in range(80):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
    if step == 60:
        if rank == 0:
            copy_away()
        dist.barrier()
