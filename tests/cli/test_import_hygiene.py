"""What a command must not load: the import graph cannot see deferral, so these ask a fresh interpreter."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    "duckdb", "pyarrow", "numpy", "ray", "starlette", "uvicorn", "uvloop", "msgspec", "google", "opentelemetry",
    "prometheus_client", "ptars", "shtab", "asyncio", "ssl", "http", "email", "subprocess", "sqlite3", "json",
    "tomllib", "difflib", "dataclasses", "inspect",
}  # fmt: skip
BUDGET = 0.150
"""Seconds of CPU for `misstep --help`, interpreter included."""

_PROBE = """
import json, sys
before = set(sys.modules)
from misstep.cli.main import main
sys.stdout = sys.stderr
status = main(sys.argv[1:])
sys.stdout = sys.__stdout__
print(json.dumps([status, sorted(set(sys.modules) - before)]))
"""


def loaded(*arguments: str) -> tuple[int, set[str]]:
    """Exit status, and the top-level and misstep modules that a command loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(done.stdout)
    return status, {m.partition(".")[0] for m in modules} | {m for m in modules if m.startswith("misstep.")}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["diagnos"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    _, modules = loaded(*arguments)
    allowed = {"json", "difflib"}  # the probe's own; the nearest word
    assert modules & HEAVY <= allowed
    rooms = {m for m in modules if m.startswith("misstep.")}
    assert rooms <= {
        "misstep.cli", "misstep.cli.main", "misstep.core", "misstep.core.errors", "misstep.core.exits",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["diagnose", "logs", "run", "doctor", "env"])
def test_a_command_loads_its_own_module_only(name: str) -> None:
    _, modules = loaded(name, "--help")
    assert not modules & {"duckdb", "pyarrow", "numpy", "ray", "starlette", "uvicorn", "shtab"}
    assert {m for m in modules if m.startswith("misstep.cli.commands.")} == {f"misstep.cli.commands.{name}"}
    assert not {
        m for m in modules if m.startswith(("misstep.store", "misstep.collector", "misstep.diagnosis"))
    }


def test_help_comes_at_once() -> None:
    # CPU time, and the least of some: what else runs on the machine is not measured.
    spent = []
    for _ in range(7):
        process = subprocess.Popen([sys.executable, "-m", "misstep.cli", "--help"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        spent.append(used.ru_utime + used.ru_stime)
    assert min(spent) <= BUDGET
