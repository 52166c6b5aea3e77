"""Two launchers with two ranks each, as on two nodes; a rank of the second gets stuck."""

import os
import socket
import subprocess
import sys
import threading
import time

if "RANK" not in os.environ:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    launch += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [subprocess.Popen([*launch, f"--node-rank={number}", __file__]) for number in range(2)]
    sys.exit(max(node.wait() for node in nodes))

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def shuffle(step):
    if rank == 3 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        threading.Event().wait()


for step in range(1000):
    shuffle(step)
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
