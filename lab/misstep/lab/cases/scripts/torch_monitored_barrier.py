"""A rank does not come to a barrier that names the missing one after a time."""

import datetime
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def upload(step):
    if rank == 2 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        time.sleep(600)


for step in range(1000):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
    upload(step)
    if step % 5 == 0:
        dist.monitored_barrier(timeout=datetime.timedelta(seconds=20))
