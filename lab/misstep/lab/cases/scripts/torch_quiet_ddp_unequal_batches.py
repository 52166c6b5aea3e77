"""A model under DDP whose batches differ in length on every rank."""

import random
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

random.seed(rank)
model = DistributedDataParallel(
    torch.nn.Sequential(*(torch.nn.Linear(128, 128) for _ in range(8))), bucket_cap_mb=0.1
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(250):
    length = random.randint(16, 1024)
    time.sleep(length / 6000)
    model(torch.randn(length, 128)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
