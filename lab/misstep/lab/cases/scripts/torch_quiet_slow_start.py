"""Compilation takes its time, on each rank another one; then all is well."""

import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def compile_model():
    time.sleep(10 + rank)


dist.barrier()
compile_model()
for step in range(100):
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
