"""What a real torchrun writes into files, from its disk to a query."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.core.errors import UnavailableError
from misstep.lab.household import free_ports

SCRIPT = """
import os, sys, time
import torch, torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    while not os.path.exists(sys.argv[1]):
        print(f"rank {rank} waits", flush=True)
        time.sleep(0.2)
    for step in range(60):
        dist.all_reduce(torch.ones(8))
        print(f"rank {rank} step {step}", flush=True)
        time.sleep(0.2)
        if step == 40 and rank == 1:
            raise ValueError("bad batch")

main()
"""


def wanted(client: Any) -> tuple[dict[tuple[str, str], Any], list[Any], str]:
    """(recognised lines by state and rank, plain lines, session) so far."""
    for session in client.get("sessions")["sessions"]:
        if "/torch/" in session["session"]:
            rows = client.get("logs", session=session["session"], limit=5000)["logs"]
            told = {
                (row["state"], str(row["attributes"].get("torch.rank", ""))): row
                for row in rows
                if row["event"] == "torch.log"
            }
            return told, [row for row in rows if not row["event"]], session["session"]
    return {}, [], ""


@pytest.mark.torch
@pytest.mark.timeout(240)
def test_files_of_torchrun(watched: Any, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    begin = tmp_path / "begin"
    with watched() as (home, service, environment):
        home.start(
            "torchrun",
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_ports(1)[0]}",
                f"--log-dir={tmp_path / 'logs'}", "--tee=3", str(script), str(begin),
            ],
            environment,
        )  # fmt: skip
        client, session = service.client(), ""
        deadline = time.monotonic() + 150
        told: dict[tuple[str, str], Any] = {}
        lines: list[Any] = []
        while time.monotonic() < deadline and not {("error_file", "1"), ("rank_failed", "1")} <= set(told):
            time.sleep(0.5)
            with contextlib.suppress(UnavailableError):  # a machine that does much else besides
                told, lines, session = wanted(client)
            # What a launcher wrote before it was found is not read: its file may hold the words of others as well.
            if any("waits" in row["body"] and str(script.parent / "logs") not in row["attributes"]["log.file.path"] for row in lines):  # fmt: skip
                begin.touch()
        assert {("error_file", "1"), ("rank_failed", "1")} <= set(told), (
            told.keys(),
            home.last_words("torchrun", 30),
        )
        error = told["error_file", "1"]
        assert error["entity"] == f"rank/{session}/1"
        assert error["attributes"]["exception.type"] == "ValueError"
        assert 'raise ValueError("bad batch")' in error["body"]
        assert told["rank_failed", "1"]["attributes"]["process.exit.code"] == "1"
        for rank in ("0", "1"):
            mine = [row["body"] for row in lines if row["entity"] == f"rank/{session}/{rank}"]
            steps = [line.partition("]:")[2] or line for line in mine if f"rank {rank} step" in line]
            # Each is in its own file and, because of --tee, in the launcher's output.
            assert [steps.count(f"rank {rank} step {step}") for step in range(41)] == [2] * 41
