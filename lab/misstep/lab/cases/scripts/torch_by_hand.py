"""Ranks started by a script of one's own, as batch systems do; one waits for a lock for ever."""

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time

if "RANK" not in os.environ:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen([sys.executable, __file__], env={**os.environ, **given, "RANK": str(number)})
        for number in range(4)
    ]
    sys.exit(max(one.wait() for one in ranks))

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def open_cache(step):
    if rank == 1 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        with tempfile.NamedTemporaryFile() as held, open(held.name) as again:
            fcntl.flock(held, fcntl.LOCK_EX)
            fcntl.flock(again, fcntl.LOCK_EX)


for step in range(1000):
    open_cache(step)
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
