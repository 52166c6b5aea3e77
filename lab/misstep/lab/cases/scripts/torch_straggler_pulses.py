"""Somebody stops one rank for a part of each second."""

import os
import signal
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

if rank == 1 and os.fork() == 0:
    time.sleep(8)
    print(f"fault at {time.time()}", flush=True)
    while os.getppid() > 1:
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(0.4)
        os.kill(os.getppid(), signal.SIGCONT)
        time.sleep(0.6)
    os._exit(0)

for step in range(2000):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
