"""DDP that reduces every fourth pass, with a gathering of objects now and then."""

from contextlib import nullcontext
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

model = DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(160):
    time.sleep(0.1)
    last = step % 4 == 3
    with nullcontext() if last else model.no_sync():
        model(torch.randn(8, 64)).square().mean().backward()
    if last:
        optimizer.step()
        optimizer.zero_grad()
    if step % 40 == 39:
        found = [None] * world
        dist.all_gather_object(found, {"rank": rank, "loss": "x" * rank})
