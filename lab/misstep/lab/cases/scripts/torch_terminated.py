"""Somebody sends one rank SIGTERM."""

import os
import signal
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(1000):
    time.sleep(0.1)
    if rank == 1 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    dist.all_reduce(torch.ones(64))
