import json
from datetime import UTC, date
from pathlib import Path
from typing import Any

import pytest

from misstep.cli.report import counts, report
from misstep.cli.terminal import Terminal

SCREEN = Terminal(color=False, unicode=True, width=90, interactive=False)
TODAY = date(2026, 11, 20)
SECOND = 10**9
INCIDENT = json.loads((Path(__file__).parents[1] / "data" / "cli" / "incident.json").read_text())


@pytest.fixture
def session() -> dict[str, Any]:
    return {
        "session": INCIDENT["session"], "name": "demo", "state": "live", "started_ns": 1795183313 * SECOND,
        "ended_ns": None, "heard_ns": 1795183360 * SECOND,
    }  # fmt: skip


@pytest.fixture
def answer() -> dict[str, Any]:
    return {
        "as_of_ns": 1795183360 * SECOND, "settled": True, "incidents": [], "recovered": [], "unseen": [],
        "summary": {"tasks": {"FINISHED": 214, "RUNNING": 3}, "actors": {"ALIVE": 1}, "nodes": {"ALIVE": 2}, "jobs": {"CREATED": 1}},
    }  # fmt: skip


def test_healthy_is_one_clear_line_and_what_ran(answer: dict[str, Any], session: dict[str, Any]) -> None:
    text = report(answer, session, SCREEN, today=TODAY, zone=UTC)
    assert text.splitlines() == [
        "✓ demo · nothing is wrong · as of 14:02:40",
        "",
        "  Ran        214 tasks finished, 3 running · 1 actor alive · 2 nodes alive · 1 job running",
    ]


def test_what_is_given_time_is_said_with_how_long(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["summary"] = {"ranks": {"stopped": 4}}
    answer["awaited"] = [
        {
            "title": "rank 0 never came", "sentence": "Ranks 1-3 wait in barrier #7; rank 0 stands in save (train.py:12).",
            "since_ns": 1795183348 * SECOND, "until_ns": 1795183468 * SECOND, "reason": "saving takes its time",
        }
    ]  # fmt: skip
    head, _, *rest = report(answer, session, SCREEN, today=TODAY, zone=UTC).splitlines()
    assert head == "✓ demo · nothing is wrong yet · as of 14:02:40"
    assert " ".join(" ".join(rest).split()).startswith(
        "Waits Ranks 1-3 wait in barrier #7; rank 0 stands in save (train.py:12). For 12 s so far; "
        "it is an incident after 2 min: saving takes its time."
    )


def test_healthy_says_what_it_could_not_see(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["unseen"] = [{"source": "kernel_log", "reason": "/dev/kmsg may not be read", "remedy": "sudo x"}]
    assert "Not seen   kernel log (/dev/kmsg may not be read)\n               sudo x" in report(
        answer, session, SCREEN, zone=UTC
    )


def test_ended_and_lost_sessions_say_so(answer: dict[str, Any], session: dict[str, Any]) -> None:
    session |= {"state": "ended", "ended_ns": 1795183361 * SECOND}
    assert "nothing went wrong · it ended at 14:02:41" in report(answer, session, SCREEN, zone=UTC)
    session["state"] = "lost"
    assert "it vanished at" in report(answer, session, SCREEN, zone=UTC)


def test_silence_about_what_nobody_looked_at_is_not_health(
    answer: dict[str, Any], session: dict[str, Any]
) -> None:
    answer["as_of_ns"] -= 40 * SECOND
    answer["settled"] = False
    text = report(answer, session, SCREEN, today=TODAY, zone=UTC)
    assert text.startswith("▲ demo · nothing found up to 14:02:00 · diagnosis is 40 s behind")


def test_what_a_cluster_left_behind(answer: dict[str, Any], session: dict[str, Any]) -> None:
    session |= {"state": "ended", "ended_ns": 1795183360 * SECOND}
    ran = report(answer, session, SCREEN, zone=UTC).splitlines()[-1]
    assert ran == "  Ran        214 tasks finished, 3 unfinished · 1 job unfinished"


def test_before_the_end_it_had_not_ended(answer: dict[str, Any], session: dict[str, Any]) -> None:
    session |= {"state": "ended", "ended_ns": 1795183361 * SECOND}
    assert "nothing is wrong" in report(answer, session, SCREEN, at=1795183350 * SECOND, zone=UTC)


def test_silence_without_a_job_is_not_called_health(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["summary"] = {"nodes": {"ALIVE": 1}, "jobs": {}}
    assert "no job has run yet" in report(answer, session, SCREEN, zone=UTC)


def test_ranks_are_a_job(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["summary"] = {"jobs": {}, "ranks": {"moving": 3, "stopped": 1}}
    text = report(answer, session, SCREEN, zone=UTC)
    assert "nothing is wrong" in text
    assert "3 ranks moving, 1 waiting" in text


def test_recovered_is_a_short_note(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["recovered"] = [{**INCIDENT, "id": str(i), "status": "recovered"} for i in range(5)]
    text = report(answer, session, SCREEN, zone=UTC)
    assert text.startswith("✓ demo · nothing is wrong")
    assert text.count("task tokenize ran out of memory") == 3
    assert "and 2 more (misstep diagnose --all)" in text
    assert "Do now" not in text
    assert report(answer, session, SCREEN, everything=True, zone=UTC).count("Do now") == 5


def test_incidents_come_in_order_of_onset(answer: dict[str, Any], session: dict[str, Any]) -> None:
    later = {**INCIDENT, "id": "0", "onset_ns": INCIDENT["onset_ns"] + SECOND, "title": "second"}
    answer["incidents"] = [later, INCIDENT]
    text = report(answer, session, SCREEN, zone=UTC)
    assert text.index("task tokenize ran out") < text.index("second")
    assert "nothing is wrong" not in text


def test_ascii(answer: dict[str, Any], session: dict[str, Any]) -> None:
    answer["incidents"] = [INCIDENT]
    assert report(answer, session, SCREEN._replace(unicode=False), zone=UTC).isascii()


def test_counts_speak_plainly() -> None:
    assert counts({}) == ""
    assert (
        counts({"tasks": {"FAILED": 1}, "workers": {"DEAD": 2, "ALIVE": 2}})
        == "1 task failed · 2 workers alive, 2 gone"
    )
    assert counts({"tasks": {"PENDING_OBJ_STORE_MEM_AVAIL": 2}}) == "2 tasks pending obj store mem avail"
