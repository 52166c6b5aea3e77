"""The job's own limit is short: those who wait for the stuck rank fail, with an error that names another."""

import datetime
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=12))
rank, world = dist.get_rank(), dist.get_world_size()


def download(step):
    if rank == 1 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        time.sleep(600)


for step in range(1000):
    time.sleep(0.1)
    download(step)
    dist.all_reduce(torch.ones(64))
