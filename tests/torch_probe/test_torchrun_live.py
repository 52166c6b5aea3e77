"""Models in parallel under a real torchrun, side by side: cases of the lab's corpus."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from misstep.core.errors import UnavailableError
from misstep.lab.cases.ledger import CASES, Case
from misstep.lab.household import Household
from misstep.lab.service import Service

LOUD = ("torch_ddp_hang", "torch_fsdp_hang")
PATIENCE = 150.0
"""Seconds until all verdicts must stand; a machine that does nothing else needs 30."""


@contextlib.contextmanager
def running(*cases: Case) -> Iterator[Service]:
    """A Misstep, under which cases run as a user would run them."""
    with Household() as home:
        service = Service(home)
        service.start()
        service.wait()
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("MISSTEP_", "RANK", "MASTER_"))
        }
        environment |= service.environment | {"OMP_NUM_THREADS": "1"}
        for case in cases:
            script = home.folder / f"{case.name}.py"
            shutil.copy(case.script, script)
            argv = [
                sys.executable, "-m", "misstep.cli", "run", "--", sys.executable, "-m", "torch.distributed.run",
                "--standalone", "--nproc-per-node", str(case.ranks), str(script),
            ]  # fmt: skip
            home.start(case.name, argv, environment)
        yield service


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, dict[str, Any]]]:
    """What is said of each case, once there is a verdict on all that need one."""
    held: dict[str, dict[str, Any]] = {}
    with running(*(CASES[name] for name in LOUD)) as service:
        client, deadline = service.client(), time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not all(
            [one["cause"] for one in held.get(name, {}).get("incidents", [])] == [CASES[name].cause]
            for name in LOUD
        ):
            time.sleep(0.5)
            with contextlib.suppress(UnavailableError):  # a machine that does much else besides
                for session in client.get("sessions")["sessions"]:
                    if session["kind"] == "torch":
                        held[session["name"].removesuffix(".py")] = client.get(
                            "incidents", session=session["session"]
                        )
    yield held


@pytest.mark.torch
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", LOUD)
def test_the_cause_and_the_rank_are_named(found: dict[str, dict[str, Any]], name: str) -> None:
    (incident,) = found[name]["incidents"]
    blamed = incident["blamed"][0]
    assert incident["cause"] == CASES[name].cause
    assert (blamed["kind"], blamed["name"]) in CASES[name].entities
    assert all(step["evidence"] for step in incident["chain"] if step["role"] == "cause")


@pytest.mark.torch
@pytest.mark.timeout(240)
def test_collectives_are_counted_in_a_group_of_requests_too() -> None:
    """Its status counts sends and receives as well, so the count comes with the readings."""
    case, read = CASES["torch_quiet_requests"], 0
    with running(case) as service:
        client, deadline = service.client(), time.monotonic() + PATIENCE
        while time.monotonic() < deadline and read < case.ranks:
            time.sleep(0.5)
            with contextlib.suppress(UnavailableError):
                rows = client.get("logs", event="torch.reading", limit=1000)["logs"]
                bodies = [json.loads(row["body"]) for row in rows if row["state"] == "moving"]
                told = [body for body in bodies if body.get("calls")]
                read = len(told)
        for body in told:
            (begun, _), newest = body["groups"]["0"], max(body["calls"][1::3])
            assert newest <= begun <= newest + 1
        sessions = [one["session"] for one in client.get("sessions")["sessions"] if one["kind"] == "torch"]
        assert [client.get("incidents", session=one)["incidents"] for one in sessions] == [[]]
    assert read >= case.ranks
