"""A pipeline of requests without a single collective; its second stage gets stuck."""

import threading
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def compute(batch, step):
    if step == 60 and rank == 1:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()
    time.sleep(0.05)
    return batch * 2


for step in range(1000):
    batch = torch.ones(256)
    if rank > 0:
        dist.irecv(batch, src=rank - 1).wait()
    batch = compute(batch, step)
    if rank < world - 1:
        request = dist.isend(batch, dst=rank + 1)
        request.wait()
