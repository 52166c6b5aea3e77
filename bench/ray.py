"""What Ray's event stream costs a driver: `python -m bench.ray [--rounds N] [--json]`.

Rounds alternate clusters without the stream, with it, and with Ray's own report intervals (1,000 ms) instead of
ours; each starts a cluster of its own and runs tasks of 50 ms and empty tasks. Events go to a real receiver with a
real spool. CPU is the driver's own (user and system); the machine's noise is in the wall time, less so in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.identity import host
from misstep.agent.launch import child_environment
from misstep.agent.receiver import Receiver
from misstep.agent.records import Records
from misstep.agent.spool import Spool
from misstep.agent.workload import Workload
from misstep.core.clock import SystemClock
from misstep.core.settings import Settings

MODES = ("off", "stream", "stream, Ray's intervals")
INTERVALS = ("RAY_task_events_report_interval_ms", "RAY_ray_events_report_interval_ms")
DRIVER = """
import json, os, sys, time
import ray
slow, empty = int(sys.argv[1]), int(sys.argv[2])
ray.init(num_cpus=2, object_store_memory=80 * 2**20, _temp_dir=sys.argv[3], log_to_driver=False, include_dashboard=False)
@ray.remote
def sleep(): time.sleep(0.05)
@ray.remote
def nothing(): pass
ray.get([sleep.remote() for _ in range(8)] + [nothing.remote() for _ in range(200)])
time.sleep(2.5)
found = {}
for name, task, count in (("50 ms", sleep, slow), ("empty", nothing, empty)):
    wall, cpu = time.perf_counter(), time.process_time()
    ray.get([task.remote() for _ in range(count)])
    time.sleep(1.2)  # the last report belongs to the tasks
    found[name] = {"wall_s": time.perf_counter() - wall - 1.2, "cpu_s": time.process_time() - cpu, "tasks": count}
print("RESULT", json.dumps(found), flush=True)
"""


def measure(mode: str, receiver: Receiver, slow: int, empty: int) -> dict[str, Any]:
    """One cluster, one driver; what it printed."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MISSTEP_"))}
    environ["RAY_AUTH_MODE"] = "disabled"
    environ |= child_environment(f"http://127.0.0.1:{receiver.port}", events=mode != "off", environ=environ)
    environ["MISSTEP_HOOK"] = "0"
    if mode == MODES[2]:
        environ = {key: value for key, value in environ.items() if key not in INTERVALS}
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, str(slow), str(empty), folder],
            env=environ, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found: dict[str, Any] = json.loads(line[7:])
            return found
    raise SystemExit(f"the driver failed:\n{done.stderr[-2000:]}")


def context(folder: Path) -> Context:
    """The parts that a receiver needs."""

    def gap(out: Records, kind: str, count: int, reason: str) -> None:
        out.event("agent.gap", body=f"{count} {kind}: {reason}")

    here = host(str(folder))
    spool = Spool(str(folder / "agent"), limit=1 << 30, age=3600.0, gap_event=gap)
    return Context(
        Settings(data=folder), here, spool, Workload(here.id, "bench"), Coverage(here.entity), SystemClock()
    )


def main() -> None:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow", type=int, default=160, help="tasks of 50 ms in a round")
    parser.add_argument("--empty", type=int, default=4000, help="empty tasks in a round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory(prefix="rb", ignore_cleanup_errors=True) as folder:
        held = context(Path(folder))
        receiver = Receiver(held, locate=lambda *_: "", heard=lambda *_: None, port=0)
        receiver.start()
        started = time.process_time()
        for number in range(arguments.rounds):
            for mode in MODES if number % 2 == 0 else reversed(MODES):
                print(f"round {number + 1} of {arguments.rounds}: {mode}", file=sys.stderr)
                found[mode].append(measure(mode, receiver, arguments.slow, arguments.empty))
        spent = time.process_time() - started
        receiver.close()
        held.spool.close()
    if arguments.json:
        print(json.dumps({"rounds": found, "receiver_cpu_s": spent}))
        return
    for kind in ("50 ms", "empty"):
        base: dict[str, float] = {}
        for mode in MODES:
            rounds = [one[kind] for one in found[mode]]
            tasks = rounds[0]["tasks"]
            wall = statistics.median(one["wall_s"] for one in rounds) / tasks * 1e3
            cpu = statistics.median(one["cpu_s"] for one in rounds) / tasks * 1e3
            base = base or {"wall": wall, "cpu": cpu}
            more = f"wall {100 * (wall / base['wall'] - 1):+6.2f} %   cpu {100 * (cpu / base['cpu'] - 1):+6.2f} %, {100 * (cpu - base['cpu']) / wall:+.2f} % of the wall time"
            print(f"{kind:>6}  {mode:<24} {wall:8.3f} ms/task wall   {cpu:7.3f} ms/task driver CPU   {more}")
    print(f"receiver: {spent:.2f} s of CPU in all")


if __name__ == "__main__":
    main()
