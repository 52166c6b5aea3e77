"""Eight ranks in pairs and rows; one of a pair gets stuck, and everybody else waits for someone who waits."""

import threading
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

pairs = [dist.new_group([first, first + 1], group_desc=f"tp_{first // 2}") for first in range(0, world, 2)]
rows = [dist.new_group(list(range(first, world, 2)), group_desc=f"dp_{first}") for first in range(2)]
tp, dp = pairs[rank // 2], rows[rank % 2]


def attention(step):
    if rank == 5 and step == 25:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()
    activation = torch.ones(256)
    dist.all_reduce(activation, group=tp)
    return activation


for step in range(400):
    attention(step)
    dist.all_reduce(torch.ones(64), group=dp)
    time.sleep(0.15)
