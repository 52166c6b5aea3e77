"""One rank asks for more memory than it may have."""

import resource
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))


def pad(batch, length):
    return torch.zeros(batch.shape[0], length)


for step in range(1000):
    time.sleep(0.1)
    batch = torch.ones(8, 64)
    if rank == 1 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        batch = pad(batch, 2**31)
    dist.all_reduce(batch.sum())
