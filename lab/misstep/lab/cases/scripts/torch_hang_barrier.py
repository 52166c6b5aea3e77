"""The others wait in a barrier for a rank that reads from a peer that says nothing."""

import socket
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

listener = socket.create_server(("127.0.0.1", 0))


def fetch():
    with socket.create_connection(listener.getsockname()) as link:
        return link.recv(1)


for step in range(400):
    dist.all_reduce(torch.ones(64))
    if step == 25:
        if rank == 0:
            print(f"fault at {time.time()}", flush=True)
            fetch()
        dist.barrier()
    time.sleep(0.15)
