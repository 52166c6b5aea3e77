"""A model under FSDP; one rank raises in its forward pass."""

import time

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


class Checked(torch.nn.Linear):
    def forward(self, value):
        if rank == 2 and step == 30:
            print(f"fault at {time.time()}", flush=True)
            raise RuntimeError("label out of range")
        return super().forward(value)


model = FullyShardedDataParallel(Checked(64, 64), device_id=torch.device("cpu"))
for step in range(400):
    time.sleep(0.15)
    model(torch.randn(8, 64)).square().mean().backward()
