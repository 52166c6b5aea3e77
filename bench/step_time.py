"""How much longer a training step takes while Misstep watches it: the same ranks, watched and not, in turns.

    python -m bench.step_time [PAIRS] [--null]

Two jobs alike never run exactly alike: where their memory lies makes some per cent, and more as time goes by. So one
torchrun job of Gloo and DDP, one rank to a processor and the hook in each, trains in turns of half a second. In every
other turn the agent is halted: nobody asks the ranks then, and what is left of the hook is two threads that sleep. A
turn's ratio is of its mean step to that of the two halted turns around it. All that the agent does falls into the turns
in which it runs, so they hold twice what a job usually sees of it, its own work on the same two processors included. The collector is halted all the time: it belongs on another machine. The interval holds 95 % of the medians of
4,000 samples of the pairs. With ``--null`` the agent is halted in all turns: what the method itself finds.
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

RANKS = 2
TURN = 0.6
"""Seconds of a turn: an agent that has heard nothing for 2 s would take a rank for one that stands still."""
JOB = """
import os, socket, sys, time
os.sched_setaffinity(0, {int(os.environ["RANK"]) % os.cpu_count()})
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
torch.set_num_threads(1)
torch.manual_seed(0)
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


def measure(pairs: int, *, null: bool) -> tuple[list[tuple[float, float]], list[float]]:
    """Of each pair the ratios of wall time and of CPU time; and what the hook's threads took of each rank, per cent of a core."""
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        plain = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        watched = plain | child_environment(service.agent_url, environ=plain)
        watched[TORCH_FOLDER] = service.environment["MISSTEP_AGENT_TORCH_FOLDER"]
        agent, collector = (pid_of(f"misstep.{name}", str(home.folder)) for name in ("agent", "collector"))
        job = Job(home, "job", watched)
        _greeted(service, set(job.pids))
        steps = 20
        for _ in range(5):
            steps = max(5, round(TURN / job.turn(steps)[0]))
        os.kill(collector, signal.SIGSTOP)
        found = []
        held, started = [hook_seconds(pid) for pid in job.pids], time.monotonic()
        before = _turn(job, steps, agent, asks=False)
        for _ in range(pairs):
            watched_turn = _turn(job, steps, agent, asks=not null)
            after = _turn(job, steps, agent, asks=False)
            found.append(
                (2 * watched_turn[0] / (before[0] + after[0]), 2 * watched_turn[1] / (before[1] + after[1]))
            )
            before = after
        spent = time.monotonic() - started
        own = [100 * (hook_seconds(pid) - was) / spent for pid, was in zip(job.pids, held, strict=True)]
        for pid in (agent, collector):
            os.kill(pid, signal.SIGCONT)
        job.close()
        return found, own


def _turn(job: Job, steps: int, agent: int, *, asks: bool) -> tuple[float, float]:
    os.kill(agent, signal.SIGCONT if asks else signal.SIGSTOP)
    return job.turn(steps)


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


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The median, and the bounds between which 95 % of the medians lie when the pairs are drawn anew; per cent above 1."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(4000))
    middle, low, high = (100 * (one - 1) for one in (statistics.median(ratios), medians[100], medians[3900]))
    return middle, low, high


def main(arguments: list[str]) -> None:
    null = "--null" in arguments
    pairs = next((int(one) for one in arguments if one.isdigit()), 240)
    found, own = measure(pairs, null=null)
    what = "null: halted in all turns" if null else "watched against not"
    print(
        f"{what}; {RANKS} ranks, {pairs} pairs, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    for name, which in (("wall", 0), ("CPU", 1)):
        middle, low, high = interval([pair[which] for pair in found])
        print(f"{name}: {middle:+.2f} % [{low:+.2f}, {high:+.2f}]")
    print(
        f"the hook's threads, over all turns: {', '.join(f'{one:.3f}' for one in own)} % of a core in each rank"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
