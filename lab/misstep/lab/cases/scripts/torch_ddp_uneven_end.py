"""A model under DDP; one rank has fewer batches and waits at the end, the others in their backward pass."""

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

model = DistributedDataParallel(torch.nn.Linear(64, 64))
batches = 40 if rank == 3 else 42
for batch in range(batches):
    time.sleep(0.15)
    model(torch.randn(8, 64)).square().mean().backward()
if rank == 3:
    print(f"fault at {time.time()}", flush=True)
dist.barrier()
dist.destroy_process_group()
