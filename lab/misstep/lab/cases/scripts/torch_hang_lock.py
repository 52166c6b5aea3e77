"""Rank 0 takes a lock twice."""

import threading
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

lock = threading.Lock()


def log(step):
    with lock:
        if rank == 0 and step == 30:
            print(f"fault at {time.time()}", flush=True)
            log(step)


for step in range(400):
    dist.all_reduce(torch.ones(64))
    log(step)
    time.sleep(0.15)
