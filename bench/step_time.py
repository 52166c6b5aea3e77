"""How much longer a training step takes with Misstep: the same ranks before and after the hook is in them.

    python -m bench.step_time [LAUNCHES] [PAIRS] [--null]

Two torchrun jobs alike, of Gloo and DDP, never run exactly alike: where their memory lies makes some per cent. So each
launch starts two without the hook and lets them train in turns of some hundred milliseconds, while the other waits for
its word; a pair is two neighbouring turns, in alternating order, and its ratio is of the mean step. Then the first job
gets the hook, the agent asks its ranks each second, and as many pairs follow. What the hook costs is the ratio after,
divided by the one before: of the same processes, with the other job as clock.

The agent runs all the time, so what it takes of the machine itself is not in the ratio: `bench.training` tells that. The
collector is stopped: it belongs on another machine. Ranks are pinned to processors, the same in both jobs, and are
scheduled round robin in real time where that is allowed, so that what else the machine does has little say; they rest as
long as they ran. The interval holds 95 % of the results of 4,000 samples of launches and of the pairs in each. With
``--null`` nobody gets a hook: what the method itself finds.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.training import hook_seconds, pid_of

from misstep.agent import launch
from misstep.lab.household import Household, free_ports
from misstep.lab.service import Service

RANKS = 4
HOOK = str(Path(launch.__file__).parent / "hook")
TURN = 0.4
"""Seconds of a turn; with the turn of the other job and the rest behind both well below the two in which a rank that waits
would be taken for one that stands still."""
JOB = """
import os, socket, sys, time
os.sched_setaffinity(0, {int(os.environ["RANK"]) % os.cpu_count()})
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
torch.manual_seed(0)
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
except PermissionError:
    pass
dist.init_process_group("gloo")
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
model = DistributedDataParallel(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
batch, target = torch.randn(32, 256), torch.randint(0, 10, (32,))
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
link.sendall(f"{os.environ['RANK']} {os.getpid()}\\n".encode())
for line in link.makefile():
    if line == "hook\\n":
        sys.path.insert(0, sys.argv[2])
        import torch_hook
        torch_hook._start(dist.distributed_c10d)
        link.sendall(b"it is in\\n")
        continue
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), target).backward()
        optimizer.step()
    link.sendall(f"{time.perf_counter() - wall} {time.process_time() - cpu}\\n".encode())
"""


class Job:
    """A running torchrun that trains when it is told to."""

    def __init__(self, home: Household, name: str, environment: dict[str, str]) -> None:
        script = home.folder / "train.py"
        script.write_text(JOB)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(120)
            home.start(
                name,
                [
                    sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}",
                    f"--master-port={free_ports(1)[0]}", str(script), str(listener.getsockname()[1]), HOOK,
                ],
                environment | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            self._links = [listener.accept()[0] for _ in range(RANKS)]
        self._files = [link.makefile() for link in self._links]
        self.pids = [int(file.readline().split()[1]) for file in self._files]

    def turn(self, steps: int) -> tuple[float, float]:
        """Train so many steps; (seconds of one, CPU seconds of one in all ranks together)."""
        for link in self._links:
            link.sendall(b"%d\n" % steps)
        held = [tuple(map(float, file.readline().split())) for file in self._files]
        return max(wall for wall, _ in held) / steps, sum(cpu for _, cpu in held) / steps

    def hook(self) -> None:
        """Start the hook in its ranks."""
        for link in self._links:
            link.sendall(b"hook\n")
        for file in self._files:
            file.readline()

    def close(self) -> None:
        """Let it end."""
        for file in self._files:
            file.close()
        for link in self._links:
            link.close()


Pair = tuple[float, float]
"""Of the first job's step and the other's: the ratios of wall time and of CPU time."""


def measure(pairs: int, *, null: bool) -> tuple[list[Pair], list[Pair]]:
    """One start of everything; the pairs before the hook, and those after."""
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        environment[launch.TORCH_FOLDER] = service.environment["MISSTEP_AGENT_TORCH_FOLDER"]
        collector = pid_of("misstep.collector", str(home.folder))
        jobs = Job(home, "job-1", environment), Job(home, "job-2", environment)
        steps = 20
        for _ in range(5):
            steps = max(5, round(TURN / max(job.turn(steps)[0] for job in jobs)))
        os.kill(collector, signal.SIGSTOP)
        before = _train(jobs, steps, pairs)
        os.kill(collector, signal.SIGCONT)
        if not null:
            jobs[0].hook()
            _greeted(service, set(jobs[0].pids))
        os.kill(collector, signal.SIGSTOP)
        held, started = [hook_seconds(pid) for pid in jobs[0].pids], time.monotonic()
        after = _train(jobs, steps, pairs)
        spent = time.monotonic() - started
        own = [100 * (hook_seconds(pid) - was) / spent for pid, was in zip(jobs[0].pids, held, strict=True)]
        print(
            f"the hook's threads: {', '.join(f'{one:.3f}' for one in own)} % of a core in each rank",
            flush=True,
        )
        os.kill(collector, signal.SIGCONT)
        for job in jobs:
            job.close()
        return before, after


def _train(jobs: tuple[Job, Job], steps: int, pairs: int) -> list[Pair]:
    found = []
    for number in range(pairs):
        times = {which: jobs[which].turn(steps) for which in ((0, 1) if number % 2 else (1, 0))}
        found.append((times[0][0] / times[1][0], times[0][1] / times[1][1]))
        time.sleep(2 * TURN)
    return found


def _greeted(service: Service, pids: set[int]) -> None:
    """Wait until the agent asks all ranks."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = service.client().get("logs", event="torch.rank", limit=1000)["logs"]
        if pids <= {
            int(row["attributes"]["process.pid"])
            for row in rows
            if row["attributes"].get("torch.hook") == "yes"
        }:
            return
        time.sleep(0.5)
    raise SystemExit("the agent did not find the ranks")


Launch = tuple[list[Pair], list[Pair]]


def effect(launches: Sequence[Launch], which: int) -> float:
    """Mean over launches of what the median ratio grew by, per cent."""
    grown = [statistics.median(p[which] for p in after) / statistics.median(p[which] for p in before) for before, after in launches]  # fmt: skip
    return 100 * (statistics.fmean(grown) - 1)


def interval(launches: Sequence[Launch], which: int) -> tuple[float, float]:
    """The bounds between which 95 % of the effects lie when launches and their pairs are drawn anew."""
    draw = random.Random(0)
    drawn = sorted(
        effect(
            [
                (draw.choices(before, k=len(before)), draw.choices(after, k=len(after)))
                for before, after in draw.choices(launches, k=len(launches))
            ],
            which,
        )
        for _ in range(4000)
    )
    return drawn[100], drawn[3900]


def main(arguments: list[str]) -> None:
    null = "--null" in arguments
    numbers = [int(one) for one in arguments if one.isdigit()]
    count, pairs = (numbers + [6, 60][len(numbers) :])[:2]
    launches: list[Launch] = []
    for number in range(count):
        launches.append(measure(pairs, null=null))
        told = [effect(launches[-1:], which) for which in (0, 1)]
        print(f"launch {number + 1}: wall {told[0]:+.2f} %, CPU {told[1]:+.2f} %", flush=True)
    what = "null: no hook before and none after" if null else "with the hook against without"
    print(
        f"{what}; {count} launches of twice {pairs} pairs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    for name, which in (("wall", 0), ("CPU", 1)):
        low, high = interval(launches, which)
        print(f"{name}: {effect(launches, which):+.2f} % [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main(sys.argv[1:])
