"""`misstep demo` with real Ray, from the fault to the verdict."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from misstep.core.exits import Exit


def demo(*arguments: str) -> tuple[int, Any, str]:
    """Run it; returns exit status, what it printed as JSON, and its narration."""
    done = subprocess.run(
        [sys.executable, "-m", "misstep.cli", "demo", *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def leftovers() -> set[str]:
    """Folders of demos that no process works in any more."""
    commands = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands += path.read_bytes()
    mine = [path for path in Path("/tmp").glob("misstep-*/") if path.stat().st_uid == os.getuid()]
    return {path.name for path in mine if os.fsencode(path) not in commands}


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_task_that_ray_kills_for_memory_is_blamed() -> None:
    status, incident, narration = demo("oom")
    assert status == Exit.OK, narration
    assert incident["cause"] == "ray-oom-kill"
    assert (incident["blamed"][0]["kind"], incident["blamed"][0]["name"]) == ("task", "tokenize")
    assert "node-2" in incident["sentence"]
    assert [entry for entry in incident["chain"] if entry["role"] == "cause"]
    assert all(entry["evidence"] for entry in incident["chain"])


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_a_healthy_job_raises_no_incident_and_leaves_nothing_behind() -> None:
    before = leftovers()
    status, answer, narration = demo("healthy")
    assert status == Exit.OK, narration
    assert answer == {"incidents": []}
    assert leftovers() <= before


@pytest.mark.torch
@pytest.mark.timeout(180)
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed: make torch")
def test_a_rank_that_hangs_in_its_data_loader_is_blamed() -> None:
    status, incident, narration = demo("hang")
    assert status == Exit.OK, narration
    assert incident["cause"] == "rank-stuck"
    assert (incident["blamed"][0]["kind"], incident["blamed"][0]["name"]) == ("rank", "2")
    assert "read_shard (train.py:" in incident["title"]
    (stacks,) = [step for step in incident["chain"] if step["source"] == "torch_stacks"]
    assert "3 of 4 in" in stacks["statement"]
    assert "rank 2 in Shards.read_shard" in stacks["statement"]
