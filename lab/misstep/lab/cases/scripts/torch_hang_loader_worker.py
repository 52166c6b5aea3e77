"""A worker process of one data loader gets stuck; the rank itself waits for its queue."""

import time

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


class Shards(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, index):
        if rank == 1 and index == 40:
            print(f"fault at {time.time()}", flush=True)
            time.sleep(3600)
        return torch.ones(64)


for batch in DataLoader(Shards(), num_workers=1, prefetch_factor=2):
    gradient = batch.sum(0)
    dist.all_reduce(gradient)
    time.sleep(0.2)
