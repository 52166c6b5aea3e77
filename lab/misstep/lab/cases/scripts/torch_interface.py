"""Somebody told Gloo of a network interface that this machine does not have."""

import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
os.environ["GLOO_SOCKET_IFNAME"] = "ib7"
print(f"fault at {time.time()}", flush=True)
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(64))
