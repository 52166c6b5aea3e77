"""One rank returns early from an evaluation and misses its barrier."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def evaluate(step):
    if rank == 2 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        return
    dist.barrier()


for step in range(400):
    time.sleep(0.15)
    dist.all_reduce(torch.ones(64))
    if step % 20 == 0:
        evaluate(step)
