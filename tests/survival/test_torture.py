"""Everything that can happen to a store at once, and its ledger."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("torture.py")


def torture(folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """What the program says at its end."""
    ended = subprocess.run(
        [sys.executable, PROGRAM, folder, str(rounds), str(seed)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_a_tortured_store_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    found = torture(tmp_path / "data", 8, 4)
    assert found["checked"] >= 5
    assert found["acknowledged"] > 0, "how many depends on how busy the machine is"


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_a_thousand_rounds_of_torture(tmp_path: Path) -> None:
    found = torture(tmp_path / "data", 1000, random.randrange(1 << 30))
    assert found["checked"] >= 800
    assert found["flip"] > 20 and found["stopped"] > 100
