"""What watching a training job costs: the agent's CPU and memory with 8 ranks, and what the hook takes inside a rank.

    python -m bench.training [SECONDS]

Eight ranks of torch call an all_reduce ten times a second. CPU is read from /proc: the agent's with its children, and in
a rank that of the hook's two threads alone.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from misstep.agent.launch import TORCH_FOLDER, child_environment
from misstep.lab.household import Household, free_ports
from misstep.lab.service import Service

RANKS = 8
JOB = f"""
import os, sys, time, torch, torch.distributed as dist
torch.set_num_threads(1)
for rank in range({RANKS}):
    if not os.fork():
        os.environ.update(RANK=str(rank), WORLD_SIZE="{RANKS}", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
        dist.init_process_group("gloo")
        value = torch.ones(64)
        while True:
            dist.all_reduce(value)
            time.sleep(0.1)
while True:
    os.wait()
"""
HOOK_THREADS = ("misstep", "pt_workerserver")
"""Before Python 3.14 threads of Python have no name for the kernel: there torch's server alone is found by it."""
TICKS = os.sysconf("SC_CLK_TCK")
START = 60.0


def main(seconds: float) -> None:
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        agent = pid_of("misstep.agent", str(home.folder))
        time.sleep(10)
        before, memory = _share(agent, seconds), _pss(agent)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MISSTEP_")}
        environment |= child_environment(service.agent_url, environ=environment)
        environment |= {
            TORCH_FOLDER: service.environment["MISSTEP_AGENT_TORCH_FOLDER"],
            "OMP_NUM_THREADS": "1",
        }
        home.start("ranks", [sys.executable, "-c", JOB, str(free_ports(1)[0])], environment)
        pids = ranks(service, RANKS)
        held, started = [hook_seconds(pid) for pid in pids], time.monotonic()
        share = _share(agent, seconds)
        spent = time.monotonic() - started
        own = [100 * (hook_seconds(pid) - was) / spent for pid, was in zip(pids, held, strict=True)]
        print(f"agent without a rank: {before:.3f} % of a core, {memory / 1024:.1f} MiB PSS")
        print(f"agent with {len(pids)} ranks:  {share:.3f} % of a core, {_pss(agent) / 1024:.1f} MiB PSS")
        print(f"inside a rank: {sum(own) / len(own):.4f} % of a core, at most {max(own):.4f} %")


def ranks(service: Service, count: int) -> list[int]:
    """Pids of the ranks in their order, once the agent asks all of them."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        rows = service.client().get("logs", event="torch.rank", limit=1000)["logs"]
        found = {
            int(row["attributes"]["torch.rank"]): int(row["attributes"]["process.pid"])
            for row in rows
            if row["attributes"].get("torch.hook") == "yes"
        }
        if len(found) == count:
            return [pid for _, pid in sorted(found.items())]
        time.sleep(0.5)
    raise SystemExit("the agent did not find the ranks; is torch installed? make torch")


def _share(pid: int, seconds: float) -> float:
    """Percent of one core that a process and its ended children took."""
    before, started = _cpu(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (_cpu(pid) - before) / (time.monotonic() - started)


def _cpu(pid: int) -> float:
    field = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, field[11:15])) / TICKS


def threads(pid: int, *wanted: str) -> list[Path]:
    """Where the scheduler counts the nanoseconds of a process's threads; of all of them where none is named."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [
        task / "schedstat" for task in tasks if not wanted or (task / "comm").read_text().strip() in wanted
    ]


def hook_seconds(pid: int) -> float:
    """CPU seconds of the hook's threads in a rank; clock ticks are too coarse."""
    return sum(int(path.read_text().split()[0]) for path in threads(pid, *HOOK_THREADS)) / 1e9


def _pss(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def pid_of(module: str, folder: str) -> int:
    """The process that runs a module of ours in that folder's service."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                module.encode() in (path / "cmdline").read_bytes().split(b"\0")
                and folder.encode() in (path / "environ").read_bytes()
            ):
                return int(path.name)
        except OSError:
            continue
    raise SystemExit("the agent is gone")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 120.0)
