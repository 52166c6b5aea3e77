"""Training jobs of four ranks that go wrong in their twelfth step: ``jobs.py NAME=PORT…``, all at the same time.

Ranks are forked from one process that has imported torch, so that many jobs cost little more than one. To whoever
watches they are like any others: every rank joins its groups by itself.
"""

import datetime
import os
import signal
import sys
import time

import torch
import torch.distributed as dist

from misstep import workload

STEPS, WRONG, WORLD = 4000, 12, 4


def load_batch() -> None:
    """Data that does not come."""
    time.sleep(3600)


def save_checkpoint() -> None:
    """One rank writes, the others wait for it."""
    time.sleep(4)


def endless() -> None:
    """Work without an end."""
    while True:
        pass


def train(case: str, rank: int) -> None:
    halves = [dist.new_group([0, 1], group_desc="tp_0"), dist.new_group([2, 3], group_desc="tp_1")]
    half, flag = halves[rank // 2], torch.zeros(8)
    gradient = torch.ones(64)
    for step in range(1, STEPS):
        wrong = step == WRONG
        dist.all_reduce(flag, group=half)
        if case == "hang":
            workload.advance(step, tokens=64, loss=1 / step)
        if wrong and case == "hang" and rank == 2:
            with workload.phase("data"):
                load_batch()
        if wrong and case == "pause" and rank == 0:
            save_checkpoint()
        if wrong and case == "spin" and rank == 1:
            endless()
        if wrong and case == "skipped" and rank == 1:
            continue
        if wrong and case == "stopped" and rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        if wrong and case == "killed" and rank == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if wrong and case == "exception" and rank == 0:
            raise ValueError("the loss is not a number")
        if wrong and case == "left" and rank == 2:
            sys.exit(0)
        if wrong and case == "shape" and rank == 1:
            gradient = gradient.reshape(8, 8)
        if step >= WRONG and case == "slow" and rank == 1:
            time.sleep(0.3)
        if wrong and case == "swapped" and rank == 3:
            dist.broadcast(flag, 0)
            dist.all_reduce(gradient)
        else:
            dist.all_reduce(gradient)
            dist.broadcast(flag, 0)
        time.sleep(0.2)


def rank(case: str, port: str, number: int) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=10))
    train(case, number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        name, _, port = argument.partition("=")
        for number in range(WORLD):
            if not os.fork():
                rank(name, port, number)
                sys.exit(0)
    while True:  # a launcher outlives its ranks
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)
