from __future__ import annotations

from typing import Any

from misstep.lab.cases.ledger import CASES
from misstep.lab.cases.runner import Outcome
from misstep.lab.cases.score import row, score, summary


def incident(cause: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "cause": cause,
        "opened_ns": 5,
        "blamed": [{"kind": kind, "name": name}, {"kind": "ray_node", "name": "n"}],
    }


def outcome(name: str, *incidents: dict[str, Any], exit: int | None = 1) -> Outcome:
    return Outcome(CASES[name], exit=exit, incidents=list(incidents), settled=True)


RIGHT = incident("user-exception", "task", "parse")


def test_cause_and_entity_must_both_be_right() -> None:
    assert score(outcome("nested_exception", RIGHT)).right
    wrong = score(outcome("nested_exception", incident("user-exception", "task", "book")))
    assert (wrong.cause, wrong.entity, wrong.right) == (True, False, False)
    assert not score(outcome("nested_exception", incident("job-failed", "task", "parse"))).right
    assert not score(outcome("nested_exception")).right


def test_a_cause_and_an_entity_from_two_incidents_do_not_add_up() -> None:
    two = score(
        outcome(
            "nested_exception",
            incident("user-exception", "task", "book"),
            incident("job-failed", "task", "parse"),
        )
    )
    assert not (two.cause and two.entity)


def test_a_second_incident_is_a_false_alarm() -> None:
    one = score(outcome("nested_exception", incident("job-failed", "job", "x"), RIGHT))
    assert (one.cause, one.entity, one.alarms, one.right) == (True, True, 1, False)


def test_silence_is_right_only_where_the_ledger_says_so() -> None:
    assert score(outcome("quiet_burst", exit=0)).right
    assert score(outcome("quiet_burst", RIGHT, exit=0)).alarms == 1


def test_an_exit_status_that_changed_is_wrong() -> None:
    assert not score(outcome("quiet_burst", exit=1)).right
    assert not score(
        outcome("infeasible_gpu", incident("infeasible-resources", "task", "step"), exit=0)
    ).right
    assert score(outcome("infeasible_gpu", incident("infeasible-resources", "task", "step"), exit=None)).right


def test_any_name_will_do_for_a_driver() -> None:
    assert score(outcome("driver_os_exit", incident("driver-exit", "job", "01000000"), exit=4)).right


def test_the_table_says_what_was_wrong() -> None:
    scores = [score(outcome("nested_exception", RIGHT)), score(outcome("quiet_burst", RIGHT, exit=0))]
    assert row(scores[0]).startswith("✓ nested_exception")
    assert "user-exception → task parse" in row(scores[1]) and row(scores[1]).startswith("✗")
    assert summary(scores).startswith("1/2 right · cause 1/1 · entity 1/1 · silent 0/1 · false alarms 1")
