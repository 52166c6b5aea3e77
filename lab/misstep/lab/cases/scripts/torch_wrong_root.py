"""Ranks that broadcast each step; once, one of them names another root: all have called it, and none gets out of it."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()

for step in range(1000):
    time.sleep(0.1)
    wrong = step == 60 and rank == 2
    if wrong:
        print(f"fault at {time.time()}", flush=True)
    dist.broadcast(torch.ones(4), src=1 if wrong else 0)
    dist.all_reduce(torch.ones(4))
