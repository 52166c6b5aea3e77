"""The CPU limit of a container holds one rank back. Needs root and cgroup v1; elsewhere nothing happens."""

import contextlib
import os
import time

# Container runtimes give a container a group of the same name for every controller.
GROUPS = [f"/sys/fs/cgroup/{controller}/misstep-lab-{os.getpid()}" for controller in ("cpu", "memory")]


def put(path, value):
    with open(path, "w") as file:
        file.write(str(value))


def clean_up():
    """The folders can go when the last process in them has gone, which can then not do it."""
    if os.fork():
        return
    os.setsid()
    os.chdir("/")
    for group in GROUPS:
        put(f"{os.path.dirname(group)}/cgroup.procs", os.getpid())
    while any(map(os.path.exists, GROUPS)):
        time.sleep(0.5)
        for group in GROUPS:
            with contextlib.suppress(OSError):
                os.rmdir(group)
    os._exit(0)


if os.environ["RANK"] == "1":
    for group in GROUPS:
        os.mkdir(group)
        put(f"{group}/cgroup.procs", os.getpid())
    clean_up()

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()


def forward():
    ended = time.thread_time() + 0.03
    while time.thread_time() < ended:
        sum(range(1000))


for step in range(400):
    if rank == 1 and step == 40:
        print(f"fault at {time.time()}", flush=True)
        put(f"{GROUPS[0]}/cpu.cfs_period_us", 100_000)
        put(f"{GROUPS[0]}/cpu.cfs_quota_us", 5_000)
    forward()
    dist.all_reduce(torch.ones(64))
    time.sleep(0.1)
