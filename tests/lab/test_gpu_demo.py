"""`misstep demo gpu`: real ranks, a GPU lost under one of them, and the verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from misstep.core.exits import Exit
from misstep.lab import nvml


@pytest.mark.timeout(180)
@pytest.mark.skipif(nvml.compiler() is None, reason="no C compiler: the GPU library cannot be built")
def test_a_lost_gpu_is_named_with_its_rank_its_process_and_the_xid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "misstep.cli", "demo", "gpu", "--json"],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.OK, done.stderr
    incident = json.loads(done.stdout)
    gpu, rank, process = incident["blamed"]
    assert (incident["cause"], gpu["kind"], gpu["name"]) == ("gpu-lost", "gpu", "2")
    about = {key: gpu["attributes"][key] for key in ("uuid", "pci", "index", "xid")}
    assert about == {
        "uuid": "GPU-00000000-0000-4000-8000-000000000002",
        "pci": "0000:38:00",
        "index": "2",
        "xid": 79,
    }
    assert (rank["kind"], rank["name"], process["kind"]) == ("rank", "2", "process")
    assert rank["attributes"]["pid"] == process["attributes"]["pid"] > 1
    consequences = {
        step["entity"]: step["statement"] for step in incident["chain"] if step["role"] == "consequence"
    }
    assert any("GPU is lost" in statement for statement in consequences.values())
    assert all(step["evidence"] for step in incident["chain"])


def test_without_a_compiler_it_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "misstep.cli", "demo", "gpu"],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == Exit.UNAVAILABLE
    assert "no C compiler: apt-get install gcc libc6-dev" in " ".join(done.stderr.split())
