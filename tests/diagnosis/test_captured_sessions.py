"""Real Ray sessions, captured with one fault each (or none), diagnosed second by second."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from misstep.diagnosis import Incident

SECOND = 1_000_000_000
Captured = Callable[[str], Any]

FAULTS = [
    # session, cause, kind and name of the blamed entity, what the blamed entity's attributes must hold
    ("user_nested", "user-exception", "task", "load", {"line": 4, "exception": "ValueError", "in": "parse"}),
    ("actor_method", "user-exception", "actor", "Trainer", {"line": 7, "exception": "RuntimeError"}),
    ("actor_init", "user-exception", "actor", "Model", {"line": 6, "exception": "FileNotFoundError"}),
    ("crash_actor", "native-crash", "actor", "Encoder", {"signal": "SIGSEGV", "place": "/home/ray/jobs/crash_actor.py:8"}),
    ("crash_task", "native-crash", "task", "encode", {"signal": "SIGSEGV"}),
    ("exit_actor7", "process-exit", "actor", "Writer", {"exit_code": 7}),
    ("exit_task", "process-exit", "task", "build", {"exit_code": 5}),
    ("killed_task", "process-killed", "task", "longrun", {"signal": "SIGKILL"}),
    ("oom_task", "ray-oom-kill", "task", "tokenize", {}),
    ("infeasible_task", "infeasible-resources", "task", "train", {"lacking": ["accelerator"]}),
    ("infeasible_actor", "infeasible-resources", "actor", "Learner", {"lacking": ["GPU"]}),
    ("held", "resources-held", "actor", "Server", {"holds": {"CPU": 2.0}}),
    ("held_actors", "resources-held", "actor", "Server", {}),
    ("driver_raises", "driver-exception", "job", "driver_raises.py", {"line": 6, "exception": "ZeroDivisionError"}),
    ("start_timed_out", "driver-exception", "job", "node_lost.py", {"line": 4, "exception": "Exception"}),
    ("driver_exit3", "driver-exit", "job", "driver_exit3.py", {"exit_code": 3}),
    ("driver_killed", "driver-exit", "job", "driver_killed.py", {"signal": "SIGKILL"}),
    ("runtime_env", "runtime-env-failed", "task", "ok", {}),
    ("owner_died", "process-exit", "actor", "Cache", {"exit_code": 1}),
    ("driver_sigsegv", "native-crash", "job", "train.py", {"signal": "SIGSEGV"}),
    ("crash_loop", "process-exit", "actor", "Worker", {"exit_code": 11}),
    ("actor_terminated", "process-killed", "actor", "Store", {"exit_code": 1}),
    ("environment_conda", "runtime-env-failed", "actor", "Renderer", {"reason": "ValueError: Could not find Conda executable at conda."}),
    ("held_by_actor", "resources-held", "actor", "Session", {"holds": {"CPU": 1.0, "license": 1.0}}),
    ("held_by_group", "resources-held", "group", "a placement group", {"holds": {"CPU": 2.0}}),
    ("chained_exception", "user-exception", "task", "train", {"line": 19, "exception": "TrainingError", "in": "train"}),
    ("hang_after_fail", "user-exception", "task", "produce", {"line": 10}),
]  # fmt: skip

QUIET = ["quiet_retry", "quiet_misc", "quiet_ctrlc"]


def verdict(incidents: list[Incident]) -> list[tuple[str, str, str]]:
    shown = [i for i in incidents if i.status != "recovered"]
    return [(i.cause, i.blamed[0]["kind"], i.blamed[0]["name"]) for i in shown]


@pytest.mark.parametrize(
    ("name", "cause", "kind", "blamed", "attributes"), FAULTS, ids=[fault[0] for fault in FAULTS]
)
def test_one_fault_is_one_incident_with_cause_and_entity(
    captured: Callable[[str], Any], name: str, cause: str, kind: str, blamed: str, attributes: dict[str, Any]
) -> None:
    incidents = captured(name).run()
    assert verdict(incidents) == [(cause, kind, blamed)]
    told = incidents[0].blamed[0]["attributes"]
    assert {key: told.get(key) for key in attributes} == attributes
    assert incidents[0].status == "ended"
    assert [step for step in incidents[0].data["chain"] if step["role"] == "cause"]


@pytest.mark.parametrize("name", QUIET)
def test_what_heals_or_is_wanted_stays_silent(captured: Callable[[str], Any], name: str) -> None:
    seen: list[tuple[str, str, str]] = []
    captured(name).run(each=lambda _, incidents: seen.extend(verdict(incidents)))
    assert seen == []


def test_a_node_that_joins_late_ends_the_wait_for_it(captured: Callable[[str], Any]) -> None:
    """Ray's last word on what nobody can give is older than the node that can."""
    incidents = captured("quiet_late_node").run()
    assert [(i.cause, i.blamed[0]["name"], i.status) for i in incidents] == [
        ("infeasible-resources", "work", "recovered")
    ]


def test_a_burst_of_tasks_and_spilling_stay_silent(captured: Callable[[str], Any]) -> None:
    replay = captured("quiet_burst")
    at = replay.ticks()
    for tick in (at[len(at) // 2], at[-10], at[-1]):
        assert replay.at(tick, []) == []


HARD = [
    "crash_actor",
    "exit_actor7",
    "exit_task",
    "oom_task",
    "killed_task",
    "crash_task",
    "runtime_env",
    "owner_died",
]


@pytest.mark.parametrize("name", HARD)
def test_hard_faults_are_told_within_seconds(captured: Callable[[str], Any], name: str) -> None:
    (incident,) = captured(name).run()
    assert incident.data["opened_ns"] - incident.data["onset_ns"] <= 3 * SECOND


EVERY = [fault for fault in FAULTS if not fault[0].startswith("held")]
WORDLESS = {"driver_raises", "runtime_env", "start_timed_out"}
"""Where the driver's own words are the only evidence, or most of it."""


@pytest.mark.parametrize("fault", [f for f in EVERY if f[0] not in WORDLESS], ids=lambda fault: fault[0])
def test_without_the_hook_events_alone_name_the_same(
    captured: Callable[[str], Any], fault: tuple[Any, ...]
) -> None:
    replay = captured(fault[0]).without(lambda row: row.event in ("process.exception", "command.exit"))
    assert verdict(replay.run()) == [fault[1:4]]


TOLD = [
    "user_nested",
    "actor_method",
    "actor_init",
    "crash_actor",
    "crash_task",
    "exit_actor7",
    "oom_task",
    "killed_task",
]


@pytest.mark.parametrize("fault", [f for f in FAULTS if f[0] in TOLD], ids=lambda fault: fault[0])
def test_without_the_last_seconds_of_events_the_drivers_words_name_the_same(
    captured: Callable[[str], Any], fault: tuple[Any, ...]
) -> None:
    """Ray shuts down when the driver dies, and what its workers and GCS had not sent yet is lost."""
    replay = captured(fault[0])
    onset = replay.run()[0].data["onset_ns"]
    cut = replay.without(lambda row: row.event.startswith("ray.") and row.ts > onset - SECOND // 2)
    assert [found[0] for found in verdict(cut.run())] == [fault[1]]
    assert verdict(cut.run())[0][1:] == fault[2:4]


@pytest.mark.parametrize("name", ["exit_actor7", "user_nested", "oom_task", "crash_task"])
def test_the_same_input_gives_the_same_bytes(captured: Callable[[str], Any], name: str) -> None:
    first, second = captured(name), captured(name)
    assert [i.to_json() for i in first.run()] == [i.to_json() for i in second.run()]


@pytest.mark.parametrize("name", ["exit_actor7", "user_nested", "oom_task", "crash_actor", "infeasible_task"])
def test_the_order_of_arrival_within_a_second_does_not_matter(
    captured: Callable[[str], Any], name: str
) -> None:
    replay = captured(name)
    expected = verdict(replay.run())
    mixed = replay.shuffled(random.Random(7))
    assert verdict(mixed.run()) == expected


def test_an_unknown_exit_code_is_said_to_be_unknown(captured: Callable[[str], Any]) -> None:
    replay = captured("exit_actor7").without(lambda row: row.event == "process.exit")
    (incident,) = replay.run()
    assert (incident.cause, incident.blamed[0]["name"]) == ("process-exit", "Writer")
    assert "cannot be known" in incident.data["sentence"]
    assert incident.data["confidence"] < 0.6


def test_evidence_refers_to_stored_rows(captured: Callable[[str], Any]) -> None:
    replay = captured("oom_task")
    (incident,) = replay.run()
    positions = {(row.seq, row.row) for row in replay.rows}
    refs = [ref for step in incident.data["chain"] for ref in step["evidence"]]
    assert any(ref["table"] == "samples" for ref in refs)
    assert all((ref["seq"], ref["row"]) in positions for ref in refs if ref["table"] == "logs")
    assert "MB/s" in incident.data["sentence"]
    assert "memory=" in incident.data["action"][0]


def test_a_wrapped_exception_tells_what_it_came_from(captured: Callable[[str], Any]) -> None:
    (incident,) = captured("chained_exception").run()
    assert "from OSError: [Errno 5]" in incident.data["sentence"]


def test_who_waits_stands_beside_who_holds(captured: Callable[[str], Any]) -> None:
    (incident,) = captured("held_by_actor").run()
    holder, waiter = incident.blamed[:2]
    assert (holder["name"], waiter["name"]) == ("Session", "export")
    assert incident.data["title"] == "actor Session holds 1 license that task export waits for"
