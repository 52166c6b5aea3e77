"""Reductions that are waited for a step later, broadcasts of objects, a barrier."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

pending = None
for step in range(200):
    time.sleep(0.1)
    work = dist.all_reduce(torch.ones(64), async_op=True)
    if pending is not None:
        pending.wait()
    pending = work
    if step % 50 == 0:
        dist.broadcast_object_list([{"step": step}], 0)
        dist.barrier()
pending.wait()
