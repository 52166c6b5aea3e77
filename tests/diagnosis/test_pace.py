"""Who comes late: real Flight Recorder dumps (torch 2.13, Gloo, 4 ranks), and jobs that are played."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.torch import recorder
from misstep.agent.torch.calls import Told
from misstep.core import names
from misstep.diagnosis import Incident, pace
from misstep.diagnosis.waits import Call
from misstep.store.rows import LogRow

DATA = Path(__file__).parent.parent / "data" / "torch"
SECOND = 1_000_000_000
SESSION = "local/torch/train.py/now"
GROUPS = {"0": [0, 1, 2, 3], "1": [0, 1], "2": [2, 3]}
Work = Callable[[int, int, random.Random], float]


def rings(case: str) -> list[dict[str, Any]]:
    return [json.loads((DATA / case / f"fr_rank{rank}.json").read_bytes()) for rank in range(4)]


def calls_of(case: str) -> dict[int, list[Call]]:
    found = {}
    for rank, ring in enumerate(rings(case)):
        held = recorder.read([json.dumps(ring).encode()]).collectives
        found[rank] = [Call(c.group, c.sequence, c.operation, c.sizes, c.dtypes, c.created) for c in held]
    return found


def members(groups: dict[str, list[int]]) -> dict[str, frozenset[int]]:
    return {name: frozenset(ranks) for name, ranks in groups.items()}


# -- the rule ---------------------------------------------------------------------------------------------
def test_only_the_rank_that_is_late_by_itself_is_named() -> None:
    (late,) = pace.find(calls_of("straggler"), members(GROUPS)).late
    assert late.rank == 1  # rank 0 waits for it in their pair, and comes as late to everybody's call
    assert 250_000_000 < late.lag < 320_000_000
    assert late.call.group == "1"
    assert late.share > 0.8


@pytest.mark.parametrize("case", ["healthy", "hang", "order", "shape_silent"])
def test_nobody_is_late_in_other_jobs(case: str) -> None:
    assert pace.find(calls_of(case), members(GROUPS)).late == ()


def play(ranks: int, steps: int, work: Work, *, seed: int = 0, clocks: tuple[int, ...] = ()) -> pace.Pace:
    """A job in which every step ends in one collective."""
    chance, release = random.Random(seed), 10**18
    held: dict[int, list[Call]] = {rank: [] for rank in range(ranks)}
    for step in range(steps):
        came = [release + round(SECOND * work(rank, step, chance)) for rank in range(ranks)]
        for rank, calls in held.items():
            offset = clocks[rank] if clocks else 0
            calls.append(Call("0", step, "gloo:all_reduce", "[[8]]", '["Float"]', came[rank] + offset))
        release = max(came)
    return pace.find(held, {"0": frozenset(range(ranks))})


QUIET: dict[str, Work] = {
    "alike": lambda rank, step, chance: chance.uniform(0.1, 0.102),
    "uneven samples": lambda rank, step, chance: chance.uniform(0.05, 0.15),
    "a few long samples": lambda rank, step, chance: chance.lognormvariate(-2, 0.6),
    "long uneven steps": lambda rank, step, chance: chance.uniform(4, 6),
    "graded work": lambda rank, step, chance: 0.1 + 0.02 * rank + chance.uniform(0, 0.01),
    "an evaluation now and then": lambda rank, step, chance: 0.1 + (rank == 0 and step % 20 == 0),
    "one pause": lambda rank, step, chance: 0.1 + 5 * (rank == 0 and step == 70),
    "a slow first step": lambda rank, step, chance: 0.1 + (20 + 5 * rank) * (step == 1),
    "a little late": lambda rank, step, chance: 0.1 + 0.004 * (rank == 1) + chance.uniform(0, 0.002),
}
LATE: dict[str, Work] = {
    "a little": lambda rank, step, chance: chance.uniform(0.09, 0.11) + 0.03 * (rank == 1),
    "much": lambda rank, step, chance: 0.1 + 0.5 * (rank == 1),
    "among uneven ones": lambda rank, step, chance: chance.uniform(0.1, 0.3) + 0.3 * (rank == 1),
    "since a while": lambda rank, step, chance: 0.1 + 0.1 * (rank == 1 and step > 80),
    "in long steps": lambda rank, step, chance: chance.uniform(1, 1.05) + 0.5 * (rank == 1),
}


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("case", QUIET)
def test_what_is_no_straggler(case: str, ranks: int) -> None:
    if case == "graded work" and ranks == 2:
        pytest.skip("of two, one is simply slower")
    found = [play(ranks, 120, QUIET[case], seed=seed).late for seed in range(8)]
    assert found == [()] * 8


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("case", LATE)
def test_what_is_one(case: str, ranks: int) -> None:
    found = [play(ranks, 120, LATE[case], seed=seed).late for seed in range(8)]
    assert [[late.rank for late in one] for one in found] == [[1]] * 8


def test_clocks_of_hosts_that_differ_by_a_constant_name_nobody() -> None:
    clocks = (0, 0, 40_000_000, 40_000_000)
    assert play(4, 120, QUIET["alike"], clocks=clocks).late == ()
    assert [late.rank for late in play(4, 120, LATE["much"], clocks=clocks).late] == [1]


def test_calls_that_are_not_waited_for_count_each_delay_once() -> None:
    """Four buckets of a step, begun one after the other; one rank is 50 ms late at the first, and stays that late."""
    held: dict[int, list[Call]] = {rank: [] for rank in range(4)}
    release = 10**18
    for step in range(100):
        late = {rank: 50_000_000 * (rank == 2) for rank in held}
        for bucket in range(4):
            for rank, calls in held.items():
                at = release + 100_000_000 + 5_000_000 * bucket + late[rank]
                calls.append(Call("0", 4 * step + bucket, "gloo:all_reduce", f"[[{bucket}]]", "[]", at))
        release += 165_000_000
    (found,) = pace.find(held, {"0": frozenset(range(4))}).late
    assert (found.rank, round(found.lag / 1_000_000)) == (2, 50)


GATHER, REDUCE, BARRIER = ("gloo:all_gather", "[[1040]]"), ("gloo:all_reduce", "[[4160]]"), ("gloo:barrier", "[]")  # fmt: skip
SHARDED = [*[GATHER] * 7, *[GATHER, REDUCE] * 5, REDUCE]
"""Six layers under fully_shard: a step's calls, forward and backward, as torch 2.13 records them."""


def play_calls(calls: list[tuple[str, str]], steps: int, own: dict[int, float]) -> pace.Pace:
    """A job of four ranks that makes these calls in each step; rank 0 has work of its own before some of them, seconds."""
    chance, release = random.Random(0), 10**18
    held: dict[int, list[Call]] = {rank: [] for rank in range(4)}
    for step in range(steps):
        for place, (operation, sizes) in enumerate(calls):
            came = [release + round(SECOND * (chance.uniform(0.005, 0.01) + (rank == 0) * own.get(place, 0.0))) for rank in held]  # fmt: skip
            for rank, made in held.items():
                made.append(Call("0", step * len(calls) + place, operation, sizes, "[]", came[rank]))
            release = max(came)
    return pace.find(held, {"0": frozenset(range(4))})


def test_a_step_of_many_layers_whose_calls_are_alike_is_one_step() -> None:
    (late,) = play_calls(SHARDED, 14, {0: 0.15}).late
    assert (late.rank, late.call.name) == (0, "all_gather")
    assert 140_000_000 < late.lag < 180_000_000
    assert late.steps <= 14


def test_a_barrier_every_ten_steps_is_no_place_to_come_late_at() -> None:
    assert play_calls([*[REDUCE] * 10, BARRIER], 40, {10: 0.5}).late == ()


# -- from readings to the verdict ---------------------------------------------------------------------------
def row(event: str, rank: int, seq: int, at: int, body: str, state: str = "", **more: str) -> LogRow:
    attributes = {names.RANK: str(rank), names.PID: str(100 + rank), names.PROCESS_ENTITY: f"process/h/{100 + rank}/1", **more}  # fmt: skip
    entity = f"process/h/{100 + rank}/1" if event.startswith("process.") else f"rank/{SESSION}/{rank}"
    return LogRow(seq, 0, at, at, event, 9, SESSION, entity, state, body, attributes, {names.HOST_NAME: "node-1"})  # fmt: skip


def readings(held: list[dict[str, Any]], every: int = 5) -> list[LogRow]:
    """The rows of a job whose ranks fill their rings as they did, read every few seconds."""
    groups = json.dumps({name: {"ranks": ranks, "desc": f"tp_{name}"} for name, ranks in GROUPS.items()})
    start = min(ring["entries"][0]["time_created_ns"] for ring in held)
    end = max(ring["entries"][-1]["time_created_ns"] for ring in held)
    rows = [row("torch.rank", rank, 1 + rank, start, groups) for rank in range(4)]
    told = [Told() for _ in held]
    for at in range(start + every * SECOND, end + every * SECOND, every * SECOND):
        for rank, ring in enumerate(held):
            known = [entry for entry in ring["entries"] if entry["time_created_ns"] <= at]
            text = json.dumps(ring | {"entries": known}, separators=(",", ":")).encode()
            body = {"groups": {"0": [len(known), len(known)]}, **told[rank].fresh([text])}
            rows.append(row("torch.reading", rank, len(rows) + 1, at, json.dumps(body, separators=(",", ":")), "moving"))  # fmt: skip
    return rows


def carried_on(held: list[dict[str, Any]], seconds: int) -> list[dict[str, Any]]:
    """The same job, in which from its end on all ranks keep step."""
    end = max(ring["entries"][-1]["time_created_ns"] for ring in held)
    sequence = {"0": 1000, "1": 1000, "2": 1000}
    more = []
    for rank, ring in enumerate(held):
        entries, like = list(ring["entries"]), {e["process_group"][0]: e for e in ring["entries"]}
        for step in range(seconds * 10):
            for place, group in enumerate(("1" if rank < 2 else "2", "0")):
                at = end + 100_000_000 * (step + 1) + 1_000_000 * place + rank * 1000
                entries.append(like[group] | {
                    "record_id": len(entries), "time_created_ns": at, "collective_seq_id": sequence[group] + step,
                })  # fmt: skip
        more.append(ring | {"entries": entries})
    return more


def verdict(incidents: list[Incident]) -> list[tuple[str, str, str]]:
    return [(i.cause, i.blamed[0]["name"], i.status) for i in incidents]


Replayed = Callable[..., list[Incident]]


def test_a_straggler_is_told_in_time_and_with_what_it_costs(replayed: Replayed) -> None:
    rows = readings(rings("straggler"))
    (incident,) = replayed(rows, SESSION)
    assert verdict([incident]) == [("straggler", "1", "open")]
    assert "comes 300 ms late to all_reduce of tp_1" in incident.data["sentence"]
    assert incident.data["opened_ns"] - incident.data["onset_ns"] < 10 * SECOND
    assert all(step["evidence"] for step in incident.data["chain"])


def test_a_healthy_job_is_silent(replayed: Replayed) -> None:
    assert replayed(readings(carried_on(rings("healthy"), 60)), SESSION) == []


def test_a_straggler_that_keeps_up_again_has_recovered(replayed: Replayed) -> None:
    told: list[str] = []
    rows = readings(carried_on(rings("straggler"), 40))
    found = replayed(rows, SESSION, each=lambda _, held: told.append(held[0].status if held else ""))
    assert verdict(found) == [("straggler", "1", "recovered")]
    assert sorted(set(told)) == ["", "open", "recovered"]
    assert told.index("recovered") > told.index("open")


def test_what_its_process_did_meanwhile_is_told(replayed: Replayed) -> None:
    rows = readings(rings("straggler"))
    start = rows[0].ts
    samples = [
        ("process.cpu.time", {names.SESSION: SESSION, names.ENTITY: f"process/h/{100 + rank}/1"}, start + second * SECOND, second * (0.9 if rank == 1 else 0.2))
        for rank in range(4)
        for second in range(15)
    ]  # fmt: skip
    (incident,) = replayed(rows, SESSION, samples)
    assert "used 0.90 of a core, the others' 0.20" in incident.data["sentence"]
    states = [
        ("process.state", {names.PID: "101", names.PROCESS_STATE: state}, start + second * SECOND, float((second % 3 == 0) == (state == "T")))
        for state in "TS"
        for second in range(15)
    ]  # fmt: skip
    (incident,) = replayed(rows, SESSION, samples + states)
    assert "stopped by a signal" in incident.data["sentence"]


def test_a_rank_that_the_limit_of_its_cgroup_holds_back(replayed: Replayed) -> None:
    """Its process was told of before anybody knew whose rank it is, and the limits are looked at each ten seconds."""
    rows = readings(rings("straggler"))
    start = rows[0].ts
    begun = row("process.start", 1, 1, start - SECOND, "", **{names.CGROUP: "/pod-1"})
    early, rows = begun._replace(session=""), [one._replace(seq=one.seq + 1) for one in rows]
    samples = [
        ("cgroup.cpu.throttled.time", {names.CGROUP: "/pod-1"}, start + second * SECOND, 0.6 * second)
        for second in (-5, 5, 15)
    ]
    (incident,) = replayed([early, *rows], SESSION, samples)
    assert "limit of its cgroup held its tasks back for 0.60 s of each second" in incident.data["sentence"]
    other = early._replace(entity="process/other-host/101/1")
    (incident,) = replayed([other, *rows], SESSION, samples)
    assert "cgroup" not in incident.data["sentence"]


def test_a_shape_that_does_not_fit_stays_on_record_after_a_good_end(replayed: Replayed) -> None:
    rows = readings(rings("shape_silent"), every=1)
    at = max(one.ts for one in rows) + 10 * SECOND
    for rank in range(4):
        rows.append(row("process.exit", rank, len(rows) + 1, at, "", "exited", **{names.EXIT_CODE: "0"}))
    found = replayed(rows, SESSION)
    assert verdict(found) == [("collective-mismatch", "1", "ended")]
    assert "The job runs on, with a result that is wrong" in found[0].data["sentence"]


def test_what_is_said_of_a_straggler_changes_with_readings_and_not_each_second(replayed: Replayed) -> None:
    rows = readings(rings("straggler"))
    samples = [
        (
            "process.cpu.time",
            {names.SESSION: SESSION, names.ENTITY: f"process/h/{100 + rank}/1"},
            rows[0].ts + second * SECOND,
            second**1.5,
        )
        for rank in range(4)
        for second in range(60)
    ]
    texts: set[str] = set()
    replayed(
        rows, SESSION, samples, extra=40, each=lambda _, held: texts.update(one.to_json() for one in held)
    )
    assert 1 <= len(texts) <= 3
