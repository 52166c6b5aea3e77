"""One job on two machines, each a set of namespaces with its own processes, name and agent: one session, one verdict."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.launch import TORCH_FOLDER, child_environment
from misstep.core.errors import UnavailableError
from misstep.lab.household import Household, free_ports
from misstep.lab.service import Service

PATIENCE = 150.0
SCRIPT = """
import threading, time, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
def shuffle():
    threading.Event().wait()
for step in range(1000):
    if dist.get_rank() == 3 and step == 20:
        shuffle()
    time.sleep(0.1)
    dist.all_reduce(torch.ones(64))
"""
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--mount")


def network() -> tuple[str, str]:
    """Interface and address by which this machine speaks with others; a job on loopback runs on one machine alone."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        name, target = line.split()[:2]
        if target == "00000000":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
                held.connect(("192.0.2.1", 9))  # sends nothing
                return name, str(held.getsockname()[0])
    return "", ""


def machine(home: Household, service: Service, number: int, port: int) -> None:
    """Start an agent and its half of the job."""
    interface, address = network()
    folder = home.folder / f"node-{number}"
    folder.mkdir()
    (folder / "machine-id").write_text(f"{number:032x}\n")
    (folder / "train.py").write_text(SCRIPT)
    own = service.environment | {
        "MISSTEP_DATA": str(folder / "data"),
        "MISSTEP_AGENT_RECEIVER_PORT": str(free_ports(1)[0]),
        "MISSTEP_AGENT_TORCH_FOLDER": str(home.folder / f"t{number}"),
    }
    agent = f"http://127.0.0.1:{own['MISSTEP_AGENT_RECEIVER_PORT']}"
    job = child_environment(agent, environ=os.environ) | {
        TORCH_FOLDER: own["MISSTEP_AGENT_TORCH_FOLDER"], "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}", "--nproc-per-node=2",
        f"--master-addr={address}", f"--master-port={port}", "train.py",
    ]  # fmt: skip
    commands = [
        f"mount --bind {folder}/machine-id /etc/machine-id",
        f"hostname node-{number}",
        f"{shlex.join([sys.executable, '-m', 'misstep.agent'])} &",
        shlex.join(["env", *(f"{k}={v}" for k, v in job.items()), *torchrun]),
    ]
    home.start(f"node-{number}", [*UNSHARE, "sh", "-ec", f"cd {folder}\n" + "\n".join(commands)], own)


@pytest.fixture
def found() -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Sessions, and the incidents of the first."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode or not network()[1]:
        pytest.skip("needs namespaces of its own and a network interface")
    with Household() as home:
        service = Service(home)
        home.start("collector", [sys.executable, "-m", "misstep.collector"], service.environment)
        port = free_ports(1)[0]
        for number in range(2):
            machine(home, service, number, port)
        client, deadline = service.client(), time.monotonic() + PATIENCE
        sessions: list[dict[str, Any]] = []
        incidents: list[dict[str, Any]] = []
        while time.monotonic() < deadline and not incidents:
            time.sleep(0.5)
            with contextlib.suppress(UnavailableError):
                sessions = [one for one in client.get("sessions")["sessions"] if one["kind"] == "torch"]
                for one in sessions:
                    incidents += client.get("incidents", session=one["session"])["incidents"]
        if not incidents:
            print(*(home.last_words(name, 30) for name in ("node-0", "node-1", "collector")))
        yield sessions, incidents


@pytest.mark.torch
@pytest.mark.timeout(240)
def test_both_halves_are_one_job(
    found: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    sessions, incidents = found
    (session,) = sessions
    assert session["attributes"]["torch.world_size"] == "4"
    (incident,) = incidents
    assert (incident["cause"], incident["blamed"][0]["name"]) == ("rank-stuck", "3")
    assert "on node-1) has not called it" in incident["sentence"]
    (stacks,) = [step for step in incident["chain"] if step["source"] == "torch_stacks"]
    assert "3 of 4 in all_reduce" in stacks["statement"]
