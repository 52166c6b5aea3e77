"""Rank 0 hands work out to whoever asks, by sends and receives, and there is not always work."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
ITEMS = 60


def wait_for_data():
    time.sleep(0.5)


if rank == 0:
    for item in range(ITEMS):
        wait_for_data()
        asked = torch.empty(1)
        sender = dist.recv(asked)
        dist.send(torch.ones(1) * item, dst=sender)
    for _ in range(world - 1):
        asked = torch.empty(1)
        dist.send(torch.ones(1) * -1, dst=dist.recv(asked))
else:
    answer = torch.zeros(1)
    while answer.item() >= 0:
        dist.send(torch.ones(1) * rank, dst=0)
        dist.recv(answer, src=0)
        time.sleep(0.3)
dist.barrier()
