"""A real Ray cluster of two nodes on this machine, beside whatever Ray its owner runs.

Both raylets stand on loopback, with a folder, ports and a token of their own. They share one host and
one memory, so Ray's memory monitor runs on the worker node only, and only when it is asked for.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from misstep.core.errors import UnavailableError
from misstep.lab import keeper
from misstep.lab.household import Household, alive, free_ports
from misstep.lab.jobs import Jobs

HEAD, WORKER = "node-1", "node-2"
POOL = "pool"
"""Custom resource of the worker node; what asks for it runs there."""
OBJECT_STORE = 100_000_000
"""Bytes of each node's object store."""
PATIENCE = 150.0
"""Seconds until a cluster that does not come up is an error; it takes 8-15 on two idle cores."""
ATTEMPTS = 3
"""Starts of the worker node: Ray gives a raylet 30 s to register, and an overloaded machine may take longer."""
WORKER_PORTS = 100
"""Ports for the workers of each node."""

Say = Callable[[str], None]


class Cluster:
    """Head `HEAD` and worker `WORKER`.

    Args:
        home: holds the processes.
        environment: for both, from `misstep.agent.launch`, with what makes Ray send its events.
        say: takes one line of progress.
        memory_threshold: share of memory in use at which the worker node's monitor kills, asked for when
            that node starts; without it neither node has a monitor.
    """

    def __init__(
        self,
        home: Household,
        environment: Mapping[str, str],
        say: Say,
        *,
        memory_threshold: Callable[[], float] | None = None,
    ) -> None:
        self._home = home
        self._say = say
        self.folder = home.folder / "ray"
        ports = free_ports(5 + 2 * WORKER_PORTS)
        self._gcs, self._client, self.dashboard, self._monitor_metrics, self._dashboard_metrics = ports[:5]
        self._worker_ports = ports[5], ports[5 + WORKER_PORTS]
        self.token_file = home.folder / "token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(secrets.token_hex(32))
        self.jobs = Jobs(self.dashboard, self.token_file.read_text())
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_file)}
        self._environment = (
            dict(environment)
            | self.access
            | {
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_DISABLE_IMPORT_WARNING": "1",
                "AUTOSCALER_METRIC_PORT": str(self._monitor_metrics),
                "DASHBOARD_METRIC_PORT": str(self._dashboard_metrics),
                "RAY_memory_monitor_refresh_ms": "0",
            }
        )
        self._memory_threshold = memory_threshold
        self._pids: dict[str, int] = {}

    def start(self) -> None:
        """Start both nodes and wait until both are alive.

        Raises:
            UnavailableError: Ray ended or did not come up in `PATIENCE` seconds; the message has its last words.
        """
        deadline = time.monotonic() + PATIENCE
        self._say(f"Starting Ray: {HEAD} (head)")
        self._start_node(HEAD, self._head_options(), {})
        self._wait(self._gcs_listens, deadline)
        for attempt in range(ATTEMPTS):
            self._say(f"Starting Ray: {WORKER} (worker)" + (", once more" if attempt else ""))
            self._start_node(WORKER, self._worker_options(), self._monitor_options())
            if self._wait(self._both_alive, deadline, again=attempt < ATTEMPTS - 1):
                return

    def kill_raylet(self, node: str) -> int:
        """SIGKILL a node's raylet, as a machine that vanishes would; returns when, Unix nanoseconds."""
        for pid in keeper.descendants(self._pids[node]):
            if _command(pid).endswith("/raylet"):
                os.kill(pid, signal.SIGKILL)
                return time.time_ns()
        raise UnavailableError(f"{node} has no raylet to kill")

    def _head_options(self) -> list[str]:
        return [
            "--head",
            f"--port={self._gcs}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={self._client}",
            "--num-cpus=1",
        ]

    def _worker_options(self) -> list[str]:
        return [
            f"--address=127.0.0.1:{self._gcs}",
            "--num-cpus=2",
            f"--resources={json.dumps({POOL: 4})}",
            # Both nodes write into one folder, and two readers would tell the driver everything twice.
            "--include-log-monitor=false",
        ]

    def _monitor_options(self) -> dict[str, str]:
        if self._memory_threshold is None:
            return {}
        return {
            "RAY_memory_monitor_refresh_ms": "250",
            "RAY_memory_usage_threshold": f"{self._memory_threshold():.4f}",
        }

    def _start_node(self, name: str, options: list[str], extra: Mapping[str, str]) -> None:
        first = self._worker_ports[name == WORKER]
        argv = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options,
            f"--node-name={name}", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder}",
            f"--object-store-memory={OBJECT_STORE}", "--dashboard-agent-listen-port=0",
            f"--min-worker-port={first}", f"--max-worker-port={first + WORKER_PORTS - 1}",
            "--disable-usage-stats", "--log-style=record", "--log-color=false",
        ]  # fmt: skip
        self._pids[name] = self._home.start(name, argv, self._environment | dict(extra))

    def _wait(self, ready: Callable[[], bool], deadline: float, *, again: bool = False) -> bool:
        """Return when it is ready; False if the worker node ended and may be started again."""
        while not ready():
            for name, pid in self._pids.items():
                if not alive(pid):
                    if again and name == WORKER:
                        return False
                    raise UnavailableError(
                        f"Ray's {name} ended while it started:\n{self._home.last_words(name)}"
                    )
            if time.monotonic() > deadline:
                name = list(self._pids)[-1]
                raise UnavailableError(
                    f"Ray did not come up in {PATIENCE:.0f} s:\n{self._home.last_words(name)}"
                )
            time.sleep(0.1)
        return True

    def _gcs_listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self._gcs)) == 0

    def _both_alive(self) -> bool:
        try:
            states = {n["raylet"].get("nodeName"): n["raylet"].get("state") for n in self.jobs.nodes()}
        except (UnavailableError, KeyError, TypeError):
            return False
        return states.get(HEAD) == states.get(WORKER) == "ALIVE"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""
