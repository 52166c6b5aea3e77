"""A model under DDP; the backward pass of one rank is slow."""

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if rank == 1 and step >= 50:
            time.sleep(0.1)
        return gradient


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(6))

    def forward(self, value):
        for place, layer in enumerate(self.layers):
            value = layer(value)
            if place == 3:
                value = Slow.apply(value)
        return value


model = DistributedDataParallel(Net(), bucket_cap_mb=0.02)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(2000):
    time.sleep(0.05)
    if rank == 1 and step == 50:
        print(f"fault at {time.time()}", flush=True)
    loss = model(torch.randn(8, 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
