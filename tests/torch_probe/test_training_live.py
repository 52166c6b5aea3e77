"""Real ranks that go wrong, from the hook to the verdict."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from misstep.core.client import Client
from misstep.core.errors import UnavailableError
from misstep.lab.household import free_ports

JOBS = Path(__file__).parent / "jobs.py"
PATIENCE = 150.0
"""Seconds until all verdicts must stand; a machine that does nothing else needs 25."""

EXPECTED = {
    "hang": ("rank-stuck", "2"),
    "skipped": ("collective-skipped", "1"),
    "swapped": ("collective-mismatch", "3"),
    "stopped": ("rank-stopped", "1"),
    "killed": ("process-killed", "3"),
    "exception": ("user-exception", "0"),
    "shape": ("collective-mismatch", "1"),
    "slow": ("straggler", "1"),
}
QUIET = ("pause",)
SLOW = {
    "spin": ("rank-stuck", "1"),
    "left": ("collective-skipped", "2"),
}


class Seen(NamedTuple):
    """What is said of a job; `counts` by metric and rank."""

    session: dict[str, Any]
    incidents: list[dict[str, Any]]
    recovered: list[dict[str, Any]]
    counts: dict[str, dict[str, float]]


def verdict(incident: dict[str, Any]) -> tuple[str, str]:
    return incident["cause"], incident["blamed"][0]["name"]


def run(watched: Any, cases: list[str], expected: dict[str, Any], least: float) -> dict[str, Seen]:
    """Run jobs side by side until the verdicts on them stand, and for `least` seconds at least."""
    ports = dict(zip(cases, map(str, free_ports(len(cases))), strict=True))
    with watched() as (home, service, environment):
        home.start("jobs", [sys.executable, str(JOBS), *(f"{c}={p}" for c, p in ports.items())], environment)
        client, begun = service.client(), 0.0
        found: dict[str, Seen] = {}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(0.5)
            with contextlib.suppress(UnavailableError):  # a machine that does much else besides
                found = _seen(client, ports)
            if len(found) == len(cases):
                begun = begun or time.monotonic()
            if (
                begun
                and time.monotonic() - begun > least
                and all(
                    [verdict(one) for one in found[case].incidents] == [told]
                    for case, told in expected.items()
                )
            ):
                return found
        print(home.last_words("jobs", 40), home.last_words("agent"), home.last_words("collector"))
        return found


def _seen(client: Client, ports: dict[str, str]) -> dict[str, Seen]:
    found = {}
    for session in client.get("sessions")["sessions"]:
        case = next((c for c, p in ports.items() if session["session"].endswith(f"_{p}")), "")
        if case:
            answer = client.get("incidents", session=session["session"])
            counts = _counts(client, session["session"])
            found[case] = Seen(session, answer["incidents"], answer["recovered"], counts)
    return found


def _counts(client: Client, session: str) -> dict[str, dict[str, float]]:
    """The progress of each rank, as `misstep query` asks for it."""
    found: dict[str, dict[str, float]] = {}
    names = "torch_collectives_total|torch_collectives_completed_total|training_step|training_tokens_total"
    query = f'{{__name__=~"{names}", misstep_session="{session}"}}'
    for one in client.prometheus("query", query=query)["result"]:
        found.setdefault(one["metric"]["__name__"], {})[one["metric"]["torch_rank"]] = float(one["value"][1])
    return found


@pytest.fixture(scope="module")
def seen(watched: Any) -> Iterator[dict[str, Seen]]:
    yield run(watched, [*EXPECTED, *QUIET], EXPECTED, 15.0)


@pytest.mark.torch
@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", EXPECTED)
def test_the_rank_at_fault_is_named(seen: dict[str, Seen], case: str) -> None:
    assert case in seen
    (incident,) = seen[case].incidents
    assert verdict(incident) == EXPECTED[case]
    assert incident["blamed"][0]["kind"] == "rank"
    assert all(step["evidence"] for step in incident["chain"] if step["role"] == "cause")


@pytest.mark.torch
@pytest.mark.parametrize("case", QUIET)
def test_a_job_that_goes_on_raises_no_incident(seen: dict[str, Seen], case: str) -> None:
    assert seen[case].incidents == seen[case].recovered == []


@pytest.mark.torch
def test_a_hang_is_told_with_the_line(seen: dict[str, Seen]) -> None:
    (incident,) = seen["hang"].incidents
    assert "load_batch (jobs.py:" in incident["title"]
    assert "Ranks 0, 1, 3 wait in all_reduce #" in incident["sentence"]
    (stacks,) = [step for step in incident["chain"] if step["source"] == "torch_stacks"]
    assert "3 of 4 in all_reduce ← train" in stacks["statement"]
    assert "rank 2 in load_batch" in stacks["statement"]
    assert stacks["statement"].endswith("ranks 0, 1, 3 in step 12; rank 2 in step 12 (data)")


@pytest.mark.torch
def test_progress_is_counted_without_a_word_of_the_script(seen: dict[str, Seen]) -> None:
    """Eleven steps of three collectives; in the twelfth rank 2 begins one and the others two."""
    counts = seen["hang"].counts
    assert counts["torch_collectives_total"] == {"0": 35, "1": 35, "2": 34, "3": 35}
    assert counts["torch_collectives_completed_total"] == dict.fromkeys("0123", 34)
    assert "training_step" not in seen["skipped"].counts


@pytest.mark.torch
def test_a_script_that_tells_its_steps_is_heard(seen: dict[str, Seen]) -> None:
    counts = seen["hang"].counts
    assert counts["training_step"] == dict.fromkeys("0123", 12.0)
    assert counts["training_tokens_total"] == dict.fromkeys("0123", 12.0 * 64)


@pytest.mark.torch
@pytest.mark.soak
@pytest.mark.timeout(400)
def test_slower_verdicts(watched: Any) -> None:
    found = run(watched, [*SLOW, "healthy"], SLOW, 60.0)
    told = {case: [verdict(one) for one in held.incidents] for case, held in found.items()}
    assert told == {case: [one] for case, one in SLOW.items()} | {"healthy": []}
