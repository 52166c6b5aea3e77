"""A rank is killed in the midst of a long step, when the others have waited for it for a while, as they always do."""

import os
import signal
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def forward(step):
    time.sleep(4.0)
    if rank == 3 and step == 8:
        time.sleep(4.0)
        print(f"fault at {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


for step in range(100):
    forward(step)
    dist.all_reduce(torch.ones(64))
