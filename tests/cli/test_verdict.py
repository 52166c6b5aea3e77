"""The verdict's wording and layout, held by snapshots of one realistic incident."""

import json
import os
import re
from datetime import UTC, date
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.verdict import render

DATA = Path(__file__).parents[1] / "data" / "cli"
STARTED = 1795183313 * 10**9
TODAY = date(2026, 11, 20)


@pytest.fixture
def incident() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / "incident.json").read_text())
    return loaded


def compare(name: str, text: str) -> None:
    """Equal to the stored snapshot; MISSTEP_SNAPSHOTS=write stores it anew, for a person to read."""
    path = DATA / name
    if os.environ.get("MISSTEP_SNAPSHOTS") == "write":
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


@pytest.mark.parametrize("width", [80, 120])
def test_reads_as_designed(incident: dict[str, Any], width: int) -> None:
    text = render(incident, width=width, started_ns=STARTED, today=TODAY, zone=UTC)
    compare(f"verdict_{width}.txt", text)
    assert max(map(len, text.splitlines())) <= width


def test_ascii_terminal(incident: dict[str, Any]) -> None:
    text = render(incident, width=80, ascii=True, started_ns=STARTED, today=TODAY, zone=UTC)
    compare("verdict_ascii.txt", text)
    assert text.isascii()
    assert text.startswith("x demo - task tokenize")


def test_colors_add_nothing_but_color(incident: dict[str, Any]) -> None:
    colored = render(incident, color=True, width=100, zone=UTC)
    assert "\x1b[31;1m✗\x1b[0m" in colored
    assert "\x1b[m" not in colored
    assert "\x1b" not in render(incident, width=100, zone=UTC)
    assert re.sub(r"\x1b\[[\d;]*m", "", colored).rstrip() == render(incident, width=100, zone=UTC)


def test_another_day_is_named(incident: dict[str, Any]) -> None:
    head = render(incident, today=date(2026, 11, 21), zone=UTC).splitlines()[0]
    assert head == "✗ demo · task tokenize ran out of memory · 2026-11-20 14:02:31"


def test_narrow_terminal_drops_sources_not_statements(incident: dict[str, Any]) -> None:
    text = render(incident, width=52, zone=UTC)
    assert max(map(len, text.splitlines())) <= 52
    assert "ray event" not in text
    assert "killed by the memory monitor" in " ".join(text.split())


def test_nothing_from_outside_controls_the_terminal(incident: dict[str, Any]) -> None:
    attack = "x\x1b]52;c;ZXZpbA==\x07y\x1b[2Jz\x9b31mw\u202ev\x00\r"
    incident["title"] = attack
    incident["sentence"] = attack
    incident["chain"][0]["statement"] = attack
    incident["chain"][0]["source"] = attack
    incident["not_it"][0]["reason"] = attack
    incident["unseen"][0]["reason"] = attack
    incident["action"] = [attack]
    incident["more"] = [attack]
    incident["impact"]["summary"] = attack
    text = render(incident, width=100, zone=UTC)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert "xyzwv" in text
    assert "ZXZpbA" not in text


def test_recovered_is_no_alarm(incident: dict[str, Any]) -> None:
    incident["status"] = "recovered"
    assert render(incident, zone=UTC).startswith("✓ demo · task tokenize ran out of memory, and recovered")


def test_an_incident_of_bare_facts_renders(incident: dict[str, Any]) -> None:
    bare = {k: incident[k] for k in ("session", "status", "severity", "title", "sentence", "onset_ns")}
    bare["chain"] = []
    text = render(bare, width=80, zone=UTC)
    assert text.splitlines()[0] == "✗ demo · task tokenize ran out of memory · 14:02:19"
    assert "Not it" not in text


def test_commands_under_more_find_the_place_and_the_session(incident: dict[str, Any]) -> None:
    more = render(incident, width=200, zone=UTC, flags=" --session nightly").partition("More ")[2]
    assert "misstep logs task/tokenize --around 14:02:31 --session nightly" in more
    assert "misstep show process/21877 --session nightly" in more
    incident["more"] = []
    more = render(incident, width=200, zone=UTC).partition("More ")[2]
    assert more.strip() == "misstep logs task/tokenize --around 14:02:31 · docs/causes/ray-oom-kill.md"


def test_the_diagnosis_may_know_the_place_in_the_job(incident: dict[str, Any]) -> None:
    incident["when"] = "12 s into the job"
    assert (
        render(incident, zone=UTC, started_ns=STARTED).splitlines()[0].endswith("14:02:31, 12 s into the job")
    )
