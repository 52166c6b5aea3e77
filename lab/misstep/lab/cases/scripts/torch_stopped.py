"""Somebody stops a rank."""

import os
import signal
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(400):
    time.sleep(0.15)
    if rank == 2 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.all_reduce(torch.ones(64))
