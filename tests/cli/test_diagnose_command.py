"""`misstep diagnose` against a collector that answers from a table."""

import json
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.main import main
from misstep.core.exits import Exit

INCIDENT = json.loads((Path(__file__).parents[1] / "data" / "cli" / "incident.json").read_text())
SECOND = 10**9


@pytest.fixture
def ray(collector: Any) -> Any:
    """A collector with one ended session that has one incident."""
    session = {
        "session": INCIDENT["session"], "kind": "ray", "name": "demo", "started_ns": 1795183313 * SECOND,
        "ended_ns": 1795183360 * SECOND, "state": "ended", "heard_ns": 1795183360 * SECOND, "attributes": {}, "incidents": 1,
    }  # fmt: skip
    collector.answers["sessions"] = lambda query: {"sessions": [session], "cursor": None}
    collector.incidents = [INCIDENT]
    collector.answers["incidents"] = lambda query: {
        "as_of_ns": 1795183365 * SECOND, "settled": True, "incidents": collector.incidents, "recovered": [],
        "unseen": [], "summary": {"jobs": {"FAILED": 1}}, "cursor": None,
    }  # fmt: skip
    return collector


def test_an_incident_is_printed_and_is_the_exit_code(ray: Any, capsys: Any) -> None:
    assert main(["diagnose", "--collector", ray.url]) == Exit.INCIDENT
    out, err = capsys.readouterr()
    assert out.startswith("✗ demo · task tokenize ran out of memory · 2026-11-20 ")
    assert "Do now" in out
    assert err == ""
    assert ray.queries("incidents")[0]["session"] == [INCIDENT["session"]]


def test_silence_is_exit_code_zero(ray: Any, capsys: Any) -> None:
    ray.incidents = []
    assert main(["diagnose", "--collector", ray.url]) == Exit.OK
    assert capsys.readouterr().out.startswith("✓ demo · nothing went wrong")


def test_json_is_the_whole_answer(ray: Any, capsys: Any) -> None:
    assert main(["diagnose", "--collector", ray.url, "--json"]) == Exit.INCIDENT
    printed = json.loads(capsys.readouterr().out)
    assert printed["incidents"] == [INCIDENT]
    assert printed["session"]["name"] == "demo"


def test_a_time_is_asked_for_in_nanoseconds_of_that_day(ray: Any) -> None:
    assert main(["diagnose", "--collector", ray.url, "--at", "2026-11-20T14:02:31Z"]) == Exit.INCIDENT
    assert ray.queries("incidents")[0]["at"] == ["1795183351000000000"]


def test_watch_ends_with_the_session(ray: Any, capsys: Any) -> None:
    assert main(["diagnose", "--collector", ray.url, "--watch"]) == Exit.INCIDENT
    out, err = capsys.readouterr()
    assert out.count("✗ demo") == 1
    assert "watching local/ray/demo" in err


def test_no_misstep_runs_here(capsys: Any) -> None:
    assert main(["diagnose"]) == Exit.UNAVAILABLE
    assert capsys.readouterr().err == "misstep: Misstep is not running here. Start it with: misstep up\n"
