"""Real training jobs (torch 2.13, four Gloo ranks, one fault each), captured and diagnosed second by second."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from misstep.core import names
from misstep.diagnosis import Incident
from misstep.store.rows import LogRow

SECOND = 1_000_000_000
Captured = Callable[[str], Any]

FAULTS = {
    "hang": ("rank-stuck", "2"),
    "skipped": ("collective-skipped", "1"),
    "left": ("collective-skipped", "2"),
    "swapped": ("collective-mismatch", "3"),
    "stopped": ("rank-stopped", "1"),
    "killed": ("process-killed", "3"),
    "exception": ("user-exception", "0"),
}


def verdict(incidents: list[Incident]) -> list[tuple[str, str]]:
    assert all(i.blamed[0]["kind"] == "rank" for i in incidents)
    return [(i.cause, i.blamed[0]["name"]) for i in incidents]


@pytest.mark.parametrize("case", FAULTS)
def test_one_fault_is_one_incident_whatever_the_order_of_arrival(captured: Captured, case: str) -> None:
    replay = captured(f"torch_{case}")
    assert verdict(replay.run()) == [FAULTS[case]]
    assert verdict(replay.shuffled(random.Random(3)).run()) == [FAULTS[case]]


@pytest.mark.parametrize("case", FAULTS)
def test_no_other_verdict_is_ever_told(captured: Captured, case: str) -> None:
    seen: set[tuple[str, str]] = set()
    captured(f"torch_{case}").run(each=lambda _, incidents: seen.update(verdict(incidents)))
    assert seen == {FAULTS[case]}


@pytest.mark.parametrize("case", FAULTS)
def test_the_same_input_gives_the_same_bytes(captured: Captured, case: str) -> None:
    first, second = (captured(f"torch_{case}").run(remember=remember) for remember in (True, False))
    assert [i.to_json() for i in first] == [i.to_json() for i in second]


def test_a_checkpoint_of_four_seconds_is_no_incident(captured: Captured) -> None:
    seen: list[Incident] = []
    captured("torch_pause").run(each=lambda _, incidents: seen.extend(incidents))
    assert seen == []


def test_a_job_that_waits_does_not_change_its_verdict_each_second(captured: Captured) -> None:
    texts: set[str] = set()
    captured("torch_hang").run(
        extra=60, each=lambda _, incidents: texts.update(i.to_json() for i in incidents)
    )
    assert len(texts) <= 4


def test_the_words_of_a_hang(captured: Captured) -> None:
    (incident,) = captured("torch_hang").run()
    data = incident.data
    assert (
        data["title"]
        == "rank 2 never came to all_reduce #23 of default_pg: stuck in load_batch (train.py:21)"
    )
    assert data["sentence"].startswith("Ranks 0, 1, 3 wait in all_reduce #23 of default_pg; rank 2 (pid ")
    assert "stands still in load_batch (train.py:21)" in data["sentence"]
    assert "/home/ml/train.py:21" in data["action"][0]
    assert data["impact"]["summary"] == "3 ranks wait, and the job stands still"
    assert data["blamed"][1]["kind"] == "process"
    roles = {step["source"]: step for step in data["chain"]}
    assert (
        "3 of 4 in all_reduce ← train (train.py:64); rank 2 in load_batch (train.py:21)"
        in roles["torch_stacks"]["statement"]
    )
    assert all(step["evidence"] for step in data["chain"])


def test_a_hang_is_told_within_ten_seconds(captured: Captured) -> None:
    (incident,) = captured("torch_hang").run()
    assert incident.data["opened_ns"] - incident.data["onset_ns"] <= 10 * SECOND


def test_without_stacks_the_rank_is_named_later_and_the_place_is_said_to_be_unknown(
    captured: Captured,
) -> None:
    (incident,) = captured("torch_hang").without(lambda row: row.event == "torch.stack").run(extra=40)
    assert verdict([incident]) == [FAULTS["hang"]]
    assert "where it stands could not be read" in incident.data["sentence"]
    assert "misstep stacks" in incident.data["action"][0]
    assert incident.data["opened_ns"] - incident.data["onset_ns"] >= 30 * SECOND


def test_a_rank_that_computes_is_given_more_time(captured: Captured) -> None:
    replay = captured("torch_hang")
    replay.rows = [
        row._replace(body=row.body.replace('"active":false', '"active":true'))
        if row.event == "torch.stack"
        else row
        for row in replay.rows
    ]
    (incident,) = replay.run(extra=40)
    assert "computes" in incident.data["sentence"]
    assert incident.data["opened_ns"] - incident.data["onset_ns"] >= 30 * SECOND


def test_a_rank_that_saves_a_checkpoint_is_given_two_minutes(captured: Captured) -> None:
    replay = captured("torch_hang")
    replay.rows = [
        row._replace(body=row.body.replace("load_batch", "save_checkpoint")) for row in replay.rows
    ]
    assert replay.run(extra=60) == []
    assert verdict(replay.run(extra=130)) == [FAULTS["hang"]]


def test_a_job_that_goes_on_again_has_recovered(captured: Captured) -> None:
    replay = captured("torch_hang")
    readings = {row.entity: row for row in replay.rows if row.event == "torch.reading"}
    last = max(row.seq for row in replay.rows)
    at = max(row.received for row in replay.rows) + 5 * SECOND
    for place, row in enumerate(readings.values(), 1):
        body = '{"groups":{"0":[40,40],"1":[20,20],"2":[20,20]}}'
        fresh = row._replace(seq=last + place, row=0, received=at, ts=at, state="moving", body=body)
        replay.rows.append(fresh)
    (incident,) = replay.run()
    assert incident.status == "recovered"


def test_timeouts_of_the_others_do_not_hide_who_kept_them_waiting(captured: Captured) -> None:
    """What follows a hang that nobody ended: torch's timeout, and an error on every rank but the one at fault."""
    replay = captured("torch_hang")
    last, at = max(row.seq for row in replay.rows), max(row.received for row in replay.rows) + 60 * SECOND
    for row in [
        row for row in replay.rows if row.event == "torch.rank" and row.attributes[names.RANK] != "2"
    ]:
        pid = row.attributes[names.PID]
        entity = row.attributes[names.PROCESS_ENTITY]
        text = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"
        for event, state, attributes in (
            ("process.exception", "", {names.EXCEPTION_TYPE: "RuntimeError", names.EXCEPTION_MESSAGE: text}),
            ("process.exit", "exited", {names.EXIT_CODE: "1"}),
        ):
            last += 1
            replay.rows.append(
                LogRow(last, 0, at, at, event, 13, row.session, entity, state, text, {names.PID: pid} | attributes, row.resource)
            )  # fmt: skip
    assert verdict(replay.run()) == [FAULTS["hang"]]


def test_a_job_that_its_owner_ends_is_no_incident(captured: Captured) -> None:
    """Ctrl-C on torchrun: it sends SIGTERM to its ranks and raises SignalException."""
    replay = captured("torch_pause")
    last, at = max(row.seq for row in replay.rows), max(row.received for row in replay.rows) + 2 * SECOND
    start = next(row for row in replay.rows if row.event == "session.start")
    launcher = start.attributes[names.PID]
    ends = [
        (row.attributes[names.PID], row.attributes[names.PROCESS_ENTITY])
        for row in replay.rows
        if row.event == "torch.rank"
    ]
    rows = [
        ("process.exit", pid, entity, "killed", {names.EXIT_SIGNAL: "SIGTERM"}, "") for pid, entity in ends
    ]
    rows.append(
        (
            "process.exception",
            launcher,
            "process/x/1/1",
            "",
            {names.EXCEPTION_TYPE: "torch.distributed.elastic.multiprocessing.api.SignalException"},
            "got signal: 2",
        )
    )
    rows.append(("process.exit", launcher, "process/x/1/1", "exited", {names.EXIT_CODE: "1"}, ""))
    for place, (event, pid, entity, state, attributes, body) in enumerate(rows, 1):
        ts = at + place * SECOND // 10
        replay.rows.append(LogRow(last + place, 0, at + SECOND, ts, event, 13, start.session, entity, state, body, {names.PID: pid} | attributes, start.resource))  # fmt: skip
    assert replay.run() == []
