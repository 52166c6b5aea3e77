"""One rank computes in C and keeps the interpreter's lock: nothing of Python runs in it any more."""

import re
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def clean(text):
    return re.match(r"(a+)+$", text)


for step in range(1000):
    time.sleep(0.1)
    text = "a" * 5
    if rank == 3 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        text = "a" * 60 + "b"
    clean(text)
    dist.all_reduce(torch.ones(64))
