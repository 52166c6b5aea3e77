"""How much longer a training step takes while Misstep watches it: steps that it touched, against those around them.

    python -m bench.step_time [SECONDS]

Two jobs alike never run exactly alike (where their memory lies makes some per cent), and one job is not alike from minute
to minute. But all that Misstep does to a job it does in moments: the hook's threads answer the agent, the agent reads and
sends. So one torchrun job of two ranks of Gloo and DDP trains without a pause, watched as every job is, and rank 0 notes
after each step whether a thread of its hook or of the agent has run in it. Steps of a second in which none has run say how
long a step is; what the others took beyond that, over all time, is the cost. The longer a step, the likelier it is that
something falls into it by chance: the same sum over steps some tenths of a second later says how much that makes.

Each rank has a processor of its own, and the agent no other than theirs: what it does itself is counted too, where on a
GPU node it finds an idle processor. The collector is halted: it belongs on another machine.
The interval holds 95 % of the results when blocks of 5 s are drawn anew 4,000 times.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from bench.training import HOOK_THREADS, hook_seconds, pid_of, ranks, threads

from misstep.agent.launch import TORCH_FOLDER, child_environment
from misstep.lab.household import Household, free_ports
from misstep.lab.service import Service

RANKS = 2
BLOCK = 5.0
LATER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LONGEST = 20
"""Times a usual step; what is longer was the machine's doing, and is left out wherever it fell."""
JOB = """
import os, sys, time
rank, processors = int(os.environ["RANK"]), sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {processors[rank % len(processors)]})
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
batch, target = torch.randn(32, 256), torch.randint(0, 10, (32,))

def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(batch), target).backward()
    optimizer.step()

begin = sys.argv[1] + "/begin"
while not os.path.exists(begin):
    step()
    time.sleep(0.05)
threads = [os.open(path, os.O_RDONLY) for path in open(begin).read().split()] if rank == 0 else []
stop = torch.zeros(1)
ran, notes, since = [b""] * len(threads), [], time.perf_counter()
while not stop:
    for _ in range(64):
        step()
        now = [os.pread(thread, 64, 0) for thread in threads]
        moment = time.perf_counter()
        notes.append((since, moment - since, [was != held for was, held in zip(ran, now)]))
        ran, since = now, moment
    stop.fill_(os.path.exists(sys.argv[1] + "/end") and rank == 0)
    dist.broadcast(stop, 0)
    since = time.perf_counter()
if rank == 0:
    with open(sys.argv[1] + "/notes", "w") as file:
        for since, took, touched in notes[1:]:
            print(f"{since:.6f} {took:.6f} {''.join(map(str, map(int, touched)))}", file=file)
"""


class Step(NamedTuple):
    """When it began and how long it took, seconds; whether a thread of the hook, and of the agent, ran in it."""

    begun: float
    took: float
    hook: bool
    agent: bool


def measure(seconds: float) -> tuple[list[Step], list[float]]:
    """The steps of rank 0; and what the hook's threads took of each rank, per cent of a core."""
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        plain = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        watched = plain | child_environment(service.agent_url, environ=plain) | {"OMP_NUM_THREADS": "1"}
        watched[TORCH_FOLDER] = service.environment["MISSTEP_AGENT_TORCH_FOLDER"]
        agent, collector = (pid_of(f"misstep.{name}", str(home.folder)) for name in ("agent", "collector"))
        script = home.folder / "train.py"
        script.write_text(JOB)
        home.start(
            "job",
            [
                sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}",
                f"--master-port={free_ports(1)[0]}", str(script), str(home.folder),
            ],
            watched,
        )  # fmt: skip
        pids = ranks(service, RANKS)
        hook, theirs = threads(pids[0], *HOOK_THREADS), threads(agent)
        temporary = home.folder / "threads"
        temporary.write_text("\n".join(map(str, hook + theirs)))
        os.kill(collector, signal.SIGSTOP)
        temporary.rename(home.folder / "begin")
        time.sleep(5)
        held, started = [hook_seconds(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        spent = time.monotonic() - started
        own = [100 * (hook_seconds(pid) - was) / spent for pid, was in zip(pids, held, strict=True)]
        (home.folder / "end").touch()
        os.kill(collector, signal.SIGCONT)
        return _read(home.folder / "notes", len(hook)), own


def _read(path: Path, hooks: int) -> list[Step]:
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit("the job did not end")
        time.sleep(0.5)
    time.sleep(1)
    found = []
    for line in path.read_text().splitlines():
        begun, took, touched = line.split(" ")
        found.append(Step(float(begun), float(took), "1" in touched[:hooks], "1" in touched[hooks:]))
    usual = statistics.median(step.took for step in found)
    return [step for step in found if step.took < LONGEST * usual]


class Block(NamedTuple):
    """What some seconds took, some steps beyond the untouched ones, and as many that were chosen by chance."""

    whole: float
    chosen: float
    chance: float


def blocks(steps: Sequence[Step], wanted: Callable[[Step], bool]) -> list[Block]:
    """The steps, some seconds together; `wanted` chooses among those that were touched."""
    begun = [step.begun for step in steps]
    touched = {place for place, step in enumerate(steps) if step.hook or step.agent}
    chosen = {place for place in touched if wanted(steps[place])}
    middles = [steps[place].begun + steps[place].took / 2 for place in chosen]
    chance = [{bisect_right(begun, middle + later) - 1 for middle in middles} - touched for later in LATER]
    found = []
    for _, group in groupby(range(len(steps)), lambda place: (begun[place] - begun[0]) // BLOCK):
        places = set(group)
        usual = statistics.mean(steps[place].took for place in places - touched)

        def beyond(some: set[int], usual: float = usual) -> float:
            return sum(steps[place].took - usual for place in some)

        found.append(
            Block(
                sum(steps[place].took for place in places),
                beyond(places & chosen),
                statistics.mean(beyond(places & some) for some in chance),
            )
        )
    return found


def interval(found: Sequence[Block], value: Callable[[Block], float]) -> tuple[float, float, float]:
    """The share of all time, and the bounds between which 95 % of it lie when the blocks are drawn anew; per cent."""
    draw = random.Random(0)

    def share(some: Sequence[Block]) -> float:
        return 100 * sum(map(value, some)) / sum(one.whole for one in some)

    drawn = sorted(share(draw.choices(found, k=len(found))) for _ in range(4000))
    return share(found), drawn[100], drawn[3900]


def main(arguments: list[str]) -> None:
    seconds = next((float(one) for one in arguments if one.isdigit()), 300.0)
    load = os.getloadavg()[0]
    steps, own = measure(seconds)
    touched = sum(step.hook or step.agent for step in steps)
    print(
        f"{RANKS} ranks, {os.cpu_count()} processors, load before {load:.1f}; "
        f"{len(steps)} steps of {1000 * statistics.median(step.took for step in steps):.1f} ms, {touched} touched"
    )
    for what, wanted in (
        ("longer by", lambda step: True),
        ("where the hook's threads ran", lambda step: step.hook),
        ("where the agent alone ran", lambda step: not step.hook),
    ):
        found = blocks(steps, wanted)
        middle, low, high = interval(found, lambda one: one.chosen - one.chance)
        chance, *_ = interval(found, lambda one: one.chance)
        print(f"{what}: {middle:+.3f} % [{low:+.3f}, {high:+.3f}], by chance {chance:+.3f} % taken off")
    print(f"the hook's threads: {', '.join(f'{one:.3f}' for one in own)} % of a core in each rank")


if __name__ == "__main__":
    main(sys.argv[1:])
