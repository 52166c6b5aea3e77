"""The loss is no number on any rank, and each of them says so."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

for step in range(1000):
    time.sleep(0.1)
    loss = torch.ones(1) * (float("nan") if step >= 40 and rank == 1 else 1.0)
    dist.all_reduce(loss)
    if loss.isnan():
        print(f"fault at {time.time()}", flush=True)
        raise FloatingPointError(f"loss is {loss.item()} at step {step}")
