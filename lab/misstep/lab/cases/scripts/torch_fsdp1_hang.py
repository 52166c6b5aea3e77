"""A model under FSDP; one rank waits for a lock in its backward pass."""

import threading
import time

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel


torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


class Waits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if rank == 0 and step == 30:
            print(f"fault at {time.time()}", flush=True)
            threading.Event().wait()
        return gradient


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, value):
        return self.two(Waits.apply(self.one(value)))


model = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"))
for step in range(400):
    time.sleep(0.15)
    model(torch.randn(8, 64)).square().mean().backward()
