"""How much longer a training step takes with Misstep: the same torchrun job with and without the hook, in turns.

    python -m bench.step_time [LAUNCHES] [PAIRS] [--null]

Each launch starts the job twice, 4 ranks of Gloo each that train a small model with DDP, once with the hook and once
without. Then they run in turns of some hundred milliseconds, while the other waits for its word and the agent asks the
ranks with the hook each second. A pair is two neighbouring turns, in alternating order; its ratio is of the mean step.
Launches alternate in which job is started first, because that alone can make some per cent. The agent runs in the turns
of both, so what it takes of the machine itself is not in the ratio: `bench.training` tells that. The collector is
stopped: it belongs on another machine. Ranks are pinned to processors, the same in both jobs, and are scheduled round
robin in real time where that is allowed, so that what else the machine does has little say; they rest as long as they
ran. The interval of a median holds 95 % of those of 4,000 samples of launches and of the pairs in each. With ``--null``
neither job has the hook: what the method itself finds.
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

from bench.training import hook_seconds, pid_of

from misstep.agent.launch import TORCH_FOLDER, child_environment
from misstep.lab.household import Household, free_ports
from misstep.lab.service import Service

RANKS = 4
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
                    f"--master-port={free_ports(1)[0]}", str(script), str(listener.getsockname()[1]),
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

    def close(self) -> None:
        """Let it end."""
        for file in self._files:
            file.close()
        for link in self._links:
            link.close()


def launch(pairs: int, *, null: bool, first: int) -> list[tuple[float, float, float, float]]:
    """One start of everything; of each pair (wall with, wall without, CPU with, CPU without), seconds of one step."""
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        plain = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        watched = plain | child_environment(service.agent_url, environ=plain)
        watched[TORCH_FOLDER] = service.environment["MISSTEP_AGENT_TORCH_FOLDER"]
        collector = pid_of("misstep.collector", str(home.folder))
        environments = (plain if null else watched, plain)
        made = {which: Job(home, f"job-{which}", environments[which]) for which in (first, 1 - first)}
        jobs = made[0], made[1]
        if not null:
            _greeted(service, set(jobs[0].pids))
        os.kill(collector, signal.SIGSTOP)
        steps = 20
        for _ in range(5):
            steps = max(5, round(TURN / max(job.turn(steps)[0] for job in jobs)))
        found = []
        held, started = [hook_seconds(pid) for pid in jobs[0].pids], time.monotonic()
        for number in range(pairs):
            order = (0, 1) if number % 2 else (1, 0)
            times = {}
            for which in order:
                times[which] = jobs[which].turn(steps)
            (wall, cpu), (wall_plain, cpu_plain) = times[0], times[1]
            found.append((wall, wall_plain, cpu, cpu_plain))
            time.sleep(2 * TURN)
        spent = time.monotonic() - started
        own = [100 * (hook_seconds(pid) - was) / spent for pid, was in zip(jobs[0].pids, held, strict=True)]
        print(
            f"the hook's threads: {', '.join(f'{one:.3f}' for one in own)} % of a core in each rank",
            flush=True,
        )
        os.kill(collector, signal.SIGCONT)
        for job in jobs:
            job.close()
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


def interval(launches: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median of all, and the bounds between which 95 % of the medians lie when launches and their pairs are drawn anew."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(
            [
                one
                for _ in launches
                for held in [draw.choice(launches)]
                for one in draw.choices(held, k=len(held))
            ]
        )
        for _ in range(4000)
    )
    return statistics.median([one for held in launches for one in held]), medians[100], medians[3900]


def main(arguments: list[str]) -> None:
    null = "--null" in arguments
    numbers = [int(one) for one in arguments if one.isdigit()]
    count, pairs = (numbers + [4, 40][len(numbers) :])[:2]
    held = []
    for number in range(count):
        held.append(launch(pairs, null=null, first=number % 2))
        told = [statistics.median([a / b for a, b in ((p[0], p[1]) for p in held[-1])]), statistics.median([p[2] / p[3] for p in held[-1]])]  # fmt: skip
        print(
            f"launch {number + 1}: wall {100 * (told[0] - 1):+.2f} %, CPU {100 * (told[1] - 1):+.2f} %",
            flush=True,
        )
    step = statistics.median([p[1] for one in held for p in one])
    print(f"{'null: neither has the hook' if null else 'with against without'}; step {1000 * step:.2f} ms, {count} launches of {pairs} pairs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")  # fmt: skip
    for name, a, b in (("wall", 0, 1), ("CPU", 2, 3)):
        middle, low, high = interval([[p[a] / p[b] for p in one] for one in held])
        print(f"{name}: {100 * (middle - 1):+.2f} % [{100 * (low - 1):+.2f}, {100 * (high - 1):+.2f}]")


if __name__ == "__main__":
    main(sys.argv[1:])
