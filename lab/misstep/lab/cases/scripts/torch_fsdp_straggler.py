"""A model under fully_shard; the input of one rank takes longer."""

import time

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
mesh = init_device_mesh("cpu", (world,))
model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
for layer in model:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)


def next_batch(step):
    time.sleep(0.1)
    if rank == 3 and step >= 40:
        if step == 40:
            print(f"fault at {time.time()}", flush=True)
        time.sleep(0.15)
    return torch.randn(8, 64)


for step in range(2000):
    model(next_batch(step)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
