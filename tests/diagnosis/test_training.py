"""Real training jobs (torch 2.13, four Gloo ranks, one fault each), captured and diagnosed second by second."""

from __future__ import annotations

import json
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
    "pipeline_hang": ("rank-stuck", "1"),
    "pipeline_only": ("rank-stuck", "0"),
    "request_pipeline": ("rank-stuck", "1"),
    "monitored_barrier": ("rank-stuck", "2"),
    "timeout": ("rank-stuck", "1"),
    "hang_checkpoint": ("rank-stuck", "0"),
    "ring_deadlock": ("collective-mismatch", "0"),
    "wrong_root": ("collective-mismatch", "0"),
    "subgroup_skipped": ("collective-skipped", "2"),
    "spawn_exception": ("user-exception", "2"),
    "save_fails": ("user-exception", "0"),
    "long_step_killed": ("process-killed", "3"),
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


@pytest.mark.parametrize("case", ["pause", "quiet_pipeline", "quiet_server"])
def test_a_job_that_goes_on_is_no_incident(captured: Captured, case: str) -> None:
    """A checkpoint of four seconds; sends and receives, which no recorder counts, with and without pauses."""
    seen: list[Incident] = []
    captured(f"torch_{case}").run(each=lambda _, incidents: seen.extend(incidents))
    assert seen == []


def test_whoever_wakes_in_a_receive_does_not_wait_for_ever(captured: Captured) -> None:
    """The same stacks at each reading, but the thread slept anew between them."""
    replay = captured("torch_pipeline_only")
    for place, row in enumerate(replay.rows):
        if names.SWITCHES in row.attributes:
            replay.rows[place] = row._replace(attributes=row.attributes | {names.SWITCHES: str(place)})
    assert replay.run() == []


def test_a_call_in_which_somebody_wakes_is_slow_and_not_stuck(captured: Captured) -> None:
    """All have called it and two are still in it, as when much is sent."""
    replay = captured("torch_wrong_root")
    for place, row in enumerate(replay.rows):
        if names.SWITCHES in row.attributes and row.attributes[names.RANK] == "2":
            replay.rows[place] = row._replace(attributes=row.attributes | {names.SWITCHES: str(place)})
    assert replay.run() == []


def test_the_words_of_a_call_that_does_not_end(captured: Captured) -> None:
    (incident,) = captured("torch_wrong_root").run()
    title = "ranks 0, 2 are in broadcast #121 of default_pg, which all have made, and do not get out of it"
    assert incident.data["title"] == title
    assert "different roots" in incident.data["sentence"]
    assert [one["name"] for one in incident.data["blamed"] if one["kind"] == "rank"] == ["0", "2"]


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


def test_a_look_at_the_late_rank_alone_does_not_replace_the_stacks_of_all(captured: Captured) -> None:
    replay = captured("torch_hang")
    alone = [row for row in replay.rows if row.event == "torch.stack" and row.attributes[names.RANK] == "2"][
        -1
    ]
    last = max(row.seq for row in replay.rows)
    newer = {"ts": alone.ts + SECOND, "received": alone.received + SECOND, "seq": last + 1}
    reading = str(int(alone.attributes[names.READING]) + SECOND)
    replay.rows.append(alone._replace(**newer, attributes=alone.attributes | {names.READING: reading}))
    replay.rows.sort(key=lambda row: row.received)
    (incident,) = replay.run(extra=5)
    (told,) = [step["statement"] for step in incident.data["chain"] if step["source"] == "torch_stacks"]
    assert "3 of 4 in all_reduce" in told


def test_a_job_that_trains_in_a_thread_is_told_by_that_thread(captured: Captured) -> None:
    replay = captured("torch_hang")
    joins = [["<module>", "/home/ml/train.py", 70], ["Thread.join", "/usr/lib/python3.11/threading.py", 1119]]
    for place, row in enumerate(replay.rows):
        if row.event == "torch.stack":
            (trains, *rest) = json.loads(row.body)
            assert trains["thread"] == "MainThread"
            threads = [trains | {"frames": joins}, *rest, trains | {"thread": "trainer"}]
            replay.rows[place] = row._replace(body=json.dumps(threads))
    (incident,) = replay.run()
    assert incident.data["title"].endswith("stuck in load_batch (train.py:21)")


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


def test_a_rank_that_computes_in_one_function_is_given_nine_seconds(captured: Captured) -> None:
    replay = captured("torch_hang")
    replay.rows = [
        row._replace(body=row.body.replace('"active":false', '"active":true'))
        if row.event == "torch.stack"
        else row
        for row in replay.rows
    ]
    (incident,) = replay.run(extra=40)
    assert "computes" in incident.data["sentence"]
    assert 9 * SECOND <= incident.data["opened_ns"] - incident.data["onset_ns"] <= 10 * SECOND


def test_a_rank_that_moves_from_function_to_function_is_given_half_a_minute(captured: Captured) -> None:
    replay, places = captured("torch_hang"), iter(range(100))
    replay.rows = [
        row._replace(body=row.body.replace('"active":false', '"active":true').replace("load_batch", f"work_{next(places)}"))
        if row.event == "torch.stack"
        else row
        for row in replay.rows
    ]  # fmt: skip
    (incident,) = replay.run(extra=40)
    assert incident.data["opened_ns"] - incident.data["onset_ns"] >= 30 * SECOND


def unanswered(replay: Any, body: str = "") -> Any:
    """The same job on a machine that has no time for it: only the first reading of its standstill is answered."""
    first = min(row.attributes[names.READING] for row in replay.rows if row.event == "torch.stack")
    replay.rows = [
        row._replace(state="silent", body=body or row.body) if row.event == "torch.reading" and row.attributes[names.READING] > first else row
        for row in replay.rows
    ]  # fmt: skip
    return replay


def test_stacks_of_ranks_that_do_not_answer_do_not_show_that_they_stand_in_the_same_call(
    captured: Captured,
) -> None:
    """A job that gets on is found at the same line in many steps."""
    assert told_after(unanswered(captured("torch_hang"))) >= 30


def test_ranks_that_do_not_answer_have_moved_where_their_status_counts_more_calls(captured: Captured) -> None:
    assert unanswered(captured("torch_hang"), '{"groups":{"0":[40,39]}}').run(extra=40) == []


def in_a_barrier(replay: Any, *, before: int = 22) -> Any:
    """The same job, whose ranks wait in a barrier, as if so many of their calls had been all."""
    for place, row in enumerate(replay.rows):
        if row.event == "torch.collective":
            number = int(row.attributes[names.SEQUENCE])
            told = {names.SEQUENCE: str(number - 22 + before)}
            if (row.attributes[names.GROUP], number) == ("0", 23):
                told[names.OPERATION] = "gloo:barrier"
            replay.rows[place] = row._replace(attributes=row.attributes | told)
        elif row.event == "torch.reading":
            body = json.loads(row.body)
            groups = {"0": [max(0, number - 22 + before) for number in body["groups"]["0"]]} if "0" in body["groups"] else {}  # fmt: skip
            replay.rows[place] = row._replace(body=json.dumps({"groups": groups}))
    return replay


def using(replay: Any, cores: float) -> Any:
    """The same job, and the CPU time of rank 2's process, that it uses so many cores."""
    pid = next(row.attributes[names.PID] for row in replay.rows if row.event == "torch.rank" and row.attributes[names.RANK] == "2")  # fmt: skip
    first = min(row.ts for row in replay.rows)
    replay.samples += [("process.cpu.time", {names.PID: pid}, first + second * SECOND, cores * second) for second in range(120)]  # fmt: skip
    return replay


def told_after(replay: Any) -> float:
    (incident,) = replay.run(extra=40)
    assert verdict([incident]) == [FAULTS["hang"]]
    return float(incident.data["opened_ns"] - incident.data["onset_ns"]) / SECOND


def test_a_barrier_in_the_midst_of_a_job_is_given_seven_seconds_for_a_rank_that_does_nothing(
    captured: Captured,
) -> None:
    assert 7 <= told_after(in_a_barrier(using(captured("torch_hang"), 0.02))) <= 9


def test_a_barrier_is_given_fifteen_seconds_for_a_rank_that_works(captured: Captured) -> None:
    """Its main thread sleeps at one line all the time, for others of its threads do the work."""
    assert 15 <= told_after(in_a_barrier(using(captured("torch_hang"), 0.9))) <= 17


def test_a_barrier_is_given_fifteen_seconds_while_a_job_is_set_up(captured: Captured) -> None:
    assert 15 <= told_after(in_a_barrier(using(captured("torch_hang"), 0.02), before=1)) <= 17


def begun(replay: Any, looks: tuple[int, ...]) -> Any:
    """The same job, none of whose ranks has a group yet; their stacks are taken after so many seconds."""
    stacks = [row for row in replay.rows if row.event == "torch.stack"]
    kept = [row for row in replay.rows if row.event in ("session.start", "torch.rank", "source.state")]
    last, at = max(row.seq for row in replay.rows), max(row.received for row in kept)
    replay.rows = kept
    for place, when in enumerate(looks):
        for one in stacks[:4]:
            late = one.attributes[names.RANK] == "2"
            body = one.body if late else one.body.replace("all_reduce", "init_process_group")
            last, ts = last + 1, at + when * SECOND
            replay.rows.append(one._replace(seq=last, row=0, ts=ts, received=ts, body=body, attributes=one.attributes | {names.READING: str(place)}))  # fmt: skip
    return replay


def test_a_rank_that_does_not_come_to_the_beginning(captured: Captured) -> None:
    """Before the first group no hook speaks; stacks from outside are all there is."""
    replay = begun(captured("torch_hang"), (5, 7, 9, 12, 15))
    assert 7 <= told_after(replay) <= 9
    (incident,) = replay.run()
    assert (
        incident.data["title"] == "rank 2 never came to init_process_group: stuck in load_batch (train.py:21)"
    )


def test_a_rank_that_works_before_it_comes_to_the_beginning_is_given_fifteen_seconds(
    captured: Captured,
) -> None:
    assert 15 <= told_after(begun(using(captured("torch_hang"), 0.9), (5, 7, 9, 12, 15, 20))) <= 17


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


def test_what_is_given_time_can_be_asked_for(captured: Captured) -> None:
    replay = captured("torch_hang")
    replay.rows = [
        row._replace(body=row.body.replace("load_batch", "save_checkpoint")) for row in replay.rows
    ]
    at = replay.ticks()[-1]
    (one,) = replay.awaited(at)
    assert one["until_ns"] - one["since_ns"] == 120 * SECOND
    assert "it stands still in save_checkpoint (train.py:21)" in one["sentence"]
    assert one["reason"] == "saving, evaluating, compiling and loading take their time"
    late = one["until_ns"] + SECOND
    assert replay.awaited(late) == []


def test_a_rank_that_the_kernel_killed_for_memory(captured: Captured) -> None:
    replay = captured("torch_killed")
    end = next(row for row in replay.rows if row.event == "process.exit" and row.attributes.get(names.EXIT_SIGNAL) == "SIGKILL")  # fmt: skip
    replay.rows.append(
        end._replace(seq=end.seq, row=end.row + 1000, event="kernel.oom_kill", state="", body="Killed process", attributes={names.PID: end.attributes[names.PID]})
    )  # fmt: skip
    (incident,) = replay.run()
    assert verdict([incident]) == [("kernel-oom-kill", "3")]
    assert "rank 3 was killed by the kernel for want of memory" in incident.data["title"]


def test_what_else_it_could_have_been_is_of_training(captured: Captured) -> None:
    for case in ("killed", "exception"):
        (incident,) = captured(f"torch_{case}").run()
        assert len(incident.data["not_it"]) >= 2
        assert "Ray" not in str(incident.data["not_it"])


def begun_anew(replay: Any, *, well: bool) -> None:
    """All ranks get other processes, which go on or break off because one of them lost a connection."""
    last, at = max(row.seq for row in replay.rows), max(row.received for row in replay.rows) + 5 * SECOND
    ranks = {row.attributes[names.RANK]: row for row in replay.rows if row.event == "torch.rank"}
    fresh = []
    for number, row in ranks.items():
        pid, process = str(90000 + int(number)), f"process/x/{90000 + int(number)}/1"
        fresh.append(
            row._replace(attributes=row.attributes | {names.PID: pid, names.PROCESS_ENTITY: process})
        )
    for row in list(fresh):
        if well:
            fresh.append(row._replace(event="torch.reading", state="moving", body='{"groups":{"0":[9,9]}}'))
            continue
        process, held = row.attributes[names.PROCESS_ENTITY], {names.PID: row.attributes[names.PID]}
        text = "Gloo connectFullMesh failed: Connection refused"
        raised = held | {names.EXCEPTION_TYPE: "RuntimeError", names.EXCEPTION_MESSAGE: text}
        fresh.append(row._replace(event="process.exception", entity=process, body=text, attributes=raised))
        ended = held | {names.EXIT_CODE: "1"}
        fresh.append(
            row._replace(event="process.exit", state="exited", entity=process, body="", attributes=ended)
        )
    for place, row in enumerate(fresh, 1):
        later = at + place * SECOND // 10
        replay.rows.append(row._replace(seq=last + place, row=0, ts=later, received=later))


def test_a_job_that_is_begun_anew_and_gets_on_has_recovered(captured: Captured) -> None:
    replay = captured("torch_exception")
    begun_anew(replay, well=True)
    (incident,) = replay.run()
    assert (*verdict([incident]), incident.status) == (FAULTS["exception"], "recovered")


def test_who_ended_the_first_life_is_blamed_where_the_next_one_cannot_begin(captured: Captured) -> None:
    replay = captured("torch_exception")
    begun_anew(replay, well=False)
    assert verdict(replay.run()) == [FAULTS["exception"]]


def test_who_ended_well_before_the_others_is_blamed_for_their_lost_connections(captured: Captured) -> None:
    """Its connections close as its process ends, so the others fail at once, and nobody is ever seen to wait."""
    replay = captured("torch_left")
    kept = ("session.start", "torch.rank", "source.state")
    replay.rows = [row for row in replay.rows if row.event in kept]
    last, at = max(row.seq for row in replay.rows), max(row.received for row in replay.rows) + 5 * SECOND
    for row in [row for row in replay.rows if row.event == "torch.rank"]:
        number, pid, process = (row.attributes[key] for key in (names.RANK, names.PID, names.PROCESS_ENTITY))
        begun = 38 if number == "2" else 41
        text = "Connection closed by peer [127.0.0.1]:5524."
        told: list[tuple[str, str, dict[str, str], str]] = [("torch.reading", "gone", {names.RANK: number}, f'{{"groups":{{"0":[{begun},38]}}}}')]  # fmt: skip
        if number != "2":
            told.append(("process.exception", "", {names.EXCEPTION_TYPE: "RuntimeError", names.EXCEPTION_MESSAGE: text}, text))  # fmt: skip
        told.append(("process.exit", "exited", {names.EXIT_CODE: "0" if number == "2" else "1"}, ""))
        for event, state, more, body in told:
            last += 1
            entity = row.entity if event == "torch.reading" else process
            replay.rows.append(row._replace(seq=last, row=0, ts=at, received=at, event=event, state=state, entity=entity, body=body, attributes={names.PID: pid} | more))  # fmt: skip
        at += SECOND // 10
    assert verdict(replay.run()) == [FAULTS["left"]]


def test_ranks_that_end_well_one_after_the_other_wait_for_nobody(captured: Captured) -> None:
    """Read last in the midst of their last call; on a busy machine it takes them seconds to end."""
    replay = captured("torch_pause")
    last, at = max(row.seq for row in replay.rows), max(row.received for row in replay.rows) + SECOND
    for row in [row for row in replay.rows if row.event == "torch.rank" and len(row.body) > 2]:
        number, pid = row.attributes[names.RANK], row.attributes[names.PID]
        begun = [900, 899] if number == "0" else [890, 890]
        end = at + (3 + 5 * (number == "0")) * SECOND
        for event, state, ts, entity, body, more in (
            (
                "torch.reading",
                "stopped",
                at,
                row.entity,
                json.dumps({"groups": {"0": begun}}),
                {names.RANK: number},
            ),
            (
                "torch.reading",
                "gone",
                at + SECOND // 10,
                row.entity,
                json.dumps({"groups": {"0": begun}}),
                {names.RANK: number},
            ),
            ("process.exit", "exited", end, row.attributes[names.PROCESS_ENTITY], "", {names.EXIT_CODE: "0"}),
        ):
            last += 1
            replay.rows.append(row._replace(seq=last, row=0, ts=ts, received=ts, event=event, state=state, entity=entity, body=body, attributes={names.PID: pid} | more))  # fmt: skip
    told: list[Incident] = []
    replay.run(each=lambda _, incidents: told.extend(incidents))
    assert told == []
