"""The kernel, here the script itself, kills a worker of one rank's data loader."""

import os
import signal
import time

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


class Images(Dataset):
    def __len__(self):
        return 100_000

    def __getitem__(self, index):
        if rank == 1 and index == 320:
            print(f"fault at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(16)


for batch in DataLoader(Images(), batch_size=8, num_workers=1, prefetch_factor=2):
    time.sleep(0.15)
    dist.all_reduce(batch.sum())
