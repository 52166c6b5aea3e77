"""Ends a rank in every way, each in a child of its own: ``ends.py ROUNDS OUTPUT``. Writes what each child left.

``ends.py --one NAME`` ends itself in one of them. Otherwise the parent has imported torch, so that a round costs a tenth of a second and not the four of an import.
"""

import atexit
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

OUTPUT = sys.argv[2]


def normal() -> None:
    dist.destroy_process_group()


def without_destroy() -> None:
    pass


def exception() -> None:
    raise ValueError("bad batch")


def leave() -> None:
    sys.exit(3)


def leave_at_once() -> None:
    os._exit(4)


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def aborted() -> None:
    os.abort()


def forked_child() -> None:
    """What a forked child does at its end must not touch its parent's sockets."""
    child = os.fork()
    if not child:
        atexit._run_exitfuncs()
        os._exit(0)  # torch itself hangs in a forked child that ends like any other
    os.waitpid(child, 0)
    doors = Path(os.environ["MISSTEP_TORCH_FOLDER"]).glob(f"*-{os.getpid()}.py")
    print("door", os.environ["MISSTEP_HOOK"] == "0" or any(doors))


ENDS = (
    normal, without_destroy, exception, leave, leave_at_once, terminated, killed, interrupted, aborted, forked_child,
)  # fmt: skip


def rank(end: object) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    value = torch.ones(8)
    for _ in range(20):
        dist.all_reduce(value)
        time.sleep(0.002)
    print("working", flush=True)
    end()  # type: ignore[operator]


def child(end: object) -> tuple[int, str, str]:
    pipes = [os.pipe(), os.pipe()]
    pid = os.fork()
    if not pid:
        for number, (_, write) in enumerate(pipes, 1):
            os.dup2(write, number)
        rank(end)
        sys.exit(0)
    texts = []
    for _, write in pipes:
        os.close(write)
    for read, _ in pipes:
        with open(read, "rb") as file:
            texts.append(file.read().decode().replace(str(pid), "PID"))
    return os.waitpid(pid, 0)[1], texts[0], texts[1]


if __name__ == "__main__" and sys.argv[1] == "--one":
    rank(next(one for one in ENDS if one.__name__ == OUTPUT))
elif __name__ == "__main__":
    found = []
    for _ in range(int(sys.argv[1])):
        for one in ENDS:
            found.append([one.__name__, *child(one)])
    with open(OUTPUT, "w") as file:
        json.dump(found, file)
