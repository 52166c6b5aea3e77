"""A pipeline without a single collective; its first stage gets stuck."""

import threading
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def read_batch(step):
    if step == 60:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()
    time.sleep(0.1)
    return torch.ones(256)


for step in range(1000):
    if rank == 0:
        batch = read_batch(step)
    else:
        batch = torch.empty(256)
        dist.recv(batch, src=rank - 1)
    if rank < world - 1:
        dist.send(batch, dst=rank + 1)
