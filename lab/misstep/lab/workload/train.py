"""A small model, trained by several ranks: each reads its own shards, gradients are averaged after every step.

    torchrun --nproc-per-node 4 train.py --recipe recipe.json

The recipe says where the shards are and how long it goes on; see `DEFAULTS`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

DEFAULTS = {
    "shards": "",  # folder with a file for each rank and step
    "steps": 150,
    "width": 384,  # of the model
    "batch": 64,
    "rate": 0.01,
    "progress": "",  # file to which each stage is noted
}


class Shards(Dataset):
    """One file for each step, read when it is its turn."""

    def __init__(self, recipe, rank):
        self.recipe, self.rank = recipe, rank

    def __len__(self):
        return self.recipe["steps"]

    def __getitem__(self, number):
        note(self.recipe, f"shard of rank {self.rank}", number)
        return self.read_shard(Path(self.recipe["shards"]) / f"{self.rank}-{number}.bin")

    def read_shard(self, path):
        """A batch: bytes as numbers between 0 and 1."""
        with open(path, "rb") as file:
            data = bytearray(file.read())
        values = torch.frombuffer(data, dtype=torch.uint8).float() / 255
        return values.repeat(self.recipe["batch"] * self.recipe["width"] // len(data) + 1)[
            : self.recipe["batch"] * self.recipe["width"]
        ].reshape(self.recipe["batch"], -1)


def note(recipe, stage, number):
    """Append a stage, with time and pid, to the progress file."""
    if recipe["progress"]:
        entry = {"time": time.time_ns(), "pid": os.getpid(), "stage": stage, "number": number}
        with open(recipe["progress"], "a") as file:
            file.write(json.dumps(entry) + "\n")


def train_step(model, optimizer, batch):
    """Forward, backward, update."""
    optimizer.zero_grad()
    loss = ((model(batch) - batch) ** 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    """Train to the last shard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", required=True)
    recipe = DEFAULTS | json.loads(Path(parser.parse_args().recipe).read_text())
    dist.init_process_group("gloo")
    rank, width = dist.get_rank(), recipe["width"]
    torch.manual_seed(0)
    layers = [torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width)]
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe["rate"])
    for step, batch in enumerate(DataLoader(Shards(recipe, rank), batch_size=None)):
        loss = train_step(model, optimizer, batch)
        if rank == 0 and step % 20 == 0:
            print(f"step {step}: loss {loss:.4f}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
