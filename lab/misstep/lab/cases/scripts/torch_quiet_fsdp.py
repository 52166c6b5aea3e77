"""A model under fully_shard, with a gathering of its state at the end."""

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

for step in range(120):
    time.sleep(0.1)
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
state = {name: value.full_tensor() for name, value in model.state_dict().items()}
dist.barrier()
dist.destroy_process_group()
