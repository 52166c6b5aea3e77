"""One of the ranks that the script spawns raises; the script dies of it in turn."""

import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def forward(rank, step):
    if rank == 2 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        raise ValueError(f"shard {step} has no labels")


def train(rank, world, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for step in range(1000):
        forward(rank, step)
        time.sleep(0.1)
        dist.all_reduce(torch.ones(64))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, args=(4, os.path.join(folder, "store")), nprocs=4)
