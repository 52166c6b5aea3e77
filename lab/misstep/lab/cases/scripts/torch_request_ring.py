"""Ranks that hand a block around in a ring of requests, as ring attention does; one of them gets no data."""

import threading
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def load(step):
    if step == 20 and rank == 3:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()
    return torch.ones(4096)


for step in range(1000):
    block = load(step)
    for _ in range(world - 1):
        coming = torch.empty_like(block)
        requests = [dist.isend(block, (rank + 1) % world), dist.irecv(coming, (rank - 1) % world)]
        time.sleep(0.02)
        for request in requests:
            request.wait()
        block = coming
