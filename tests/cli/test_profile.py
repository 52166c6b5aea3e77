"""A flame graph of a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from misstep.cli.main import main
from misstep.core.exits import Exit


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    code = "print(1, flush=True)\ndef knead():\n    while True: sum(range(1000))\nknead()"
    held = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert held.stdout is not None
    held.stdout.readline()
    yield held
    held.kill()
    held.communicate()


def test_what_a_process_does(
    process: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flames.json"
    assert main(["profile", str(process.pid), "--seconds", "1", "--out", str(out)]) == Exit.OK
    assert capsys.readouterr().out == f"{out}\n"
    held = json.loads(out.read_text())
    assert "speedscope" in held["$schema"]
    assert "knead" in {frame["name"] for frame in held["shared"]["frames"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ranks"], "neither a pid nor rank/NUMBER"),
        (["1", "--seconds", "0"], "between 0 and 600"),
        (["999999999"], "could not read process 999999999"),
    ],
)
def test_what_cannot_be_recorded(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *arguments]) == Exit.FAILURE
    assert said in capsys.readouterr().err
