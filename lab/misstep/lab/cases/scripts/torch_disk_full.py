"""A checkpoint finds no room."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
model = torch.nn.Linear(64, 64)


def save(step):
    print(f"fault at {time.time()}", flush=True)
    with open("/dev/full", "wb") as file:
        torch.save({"step": step, "model": model.state_dict()}, file)
        file.flush()


for step in range(1000):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
    if rank == 0 and step == 40:
        save(step)
    dist.barrier()
