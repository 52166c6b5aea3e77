"""A model under DDP; the data of one rank does not come."""

import threading
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
model = DistributedDataParallel(model, bucket_cap_mb=0.02)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def next_batch(step):
    time.sleep(0.1)
    if rank == 2 and step == 30:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()
    return torch.randn(8, 64)


for step in range(400):
    loss = model(next_batch(step)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
