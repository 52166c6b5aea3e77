"""Who keeps whom waiting: on dumps of real jobs, and on jobs that hypothesis makes up."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.agent.torch import recorder
from misstep.diagnosis.waits import SURE, Call, Standing, find, waits

DATA = Path(__file__).parent.parent / "data" / "torch"
GROUPS = {"0": frozenset(range(4)), "1": frozenset({0, 1}), "2": frozenset({2, 3})}


def captured(case: str, *, later: int = 3 * SURE) -> dict[int, Standing]:
    """The ranks of a captured job, each read some time after its last call."""
    found = {}
    for path in sorted((DATA / case).glob("fr_rank*.json")):
        trace = recorder.read([path.read_bytes()])
        calls = {
            (c.group, c.sequence): Call(c.group, c.sequence, c.operation, c.sizes, c.dtypes, c.created)
            for c in trace.collectives
        }
        positions = trace.by_group()
        found[int(path.stem[-1])] = Standing(
            max(c.created for c in calls.values()) + later,
            {g: p.enqueued for g, p in positions.items()},
            {g: p.completed for g, p in positions.items()},
            calls,
        )
    return found


def test_a_missing_rank() -> None:
    fault = find(captured("hang"), GROUPS)
    assert fault is not None
    assert (fault.kind, fault.ranks) == ("missing", frozenset({2}))
    assert (fault.wait.group, fault.wait.sequence, fault.wait.name) == ("0", 10, "all_reduce")
    assert fault.wait.inside == {0, 1, 3}


def test_a_reading_that_is_too_old_blames_nobody() -> None:
    assert find(captured("hang", later=0), GROUPS) is None


@pytest.mark.parametrize(("case", "culprit"), [("order", 3), ("order_culprit_rank0", 0)])
def test_calls_in_another_order(case: str, culprit: int) -> None:
    fault = find(captured(case), GROUPS)
    assert fault is not None
    assert (fault.kind, fault.ranks, fault.tied) == ("mismatch", frozenset({culprit}), False)
    assert fault.instead is not None
    assert fault.expected is not None
    assert (fault.instead.name, fault.expected.name) == ("broadcast", "all_reduce")


def test_a_shape_that_differs_in_a_job_that_runs_on() -> None:
    fault = find(captured("shape_silent"), GROUPS)
    assert fault is not None
    assert (fault.kind, fault.ranks) == ("mismatch", frozenset({1}))
    assert fault.instead is not None
    assert fault.instead.sizes == "[[256,256]]"


def test_where_few_calls_are_known_a_later_place_tells_who_is_right() -> None:
    """Readings of a running job: two ranks were read a moment before the others, and their windows begin earlier."""
    ranks = captured("shape_silent")
    last = max(sequence for group, sequence in ranks[0].calls if group == "0")
    windows = {0: last - 4, 1: last - 4, 2: last - 1, 3: last - 1}
    cut = {
        rank: held._replace(calls={key: call for key, call in held.calls.items() if key[1] >= windows[rank]})
        for rank, held in ranks.items()
    }
    fault = find(cut, GROUPS)
    assert fault is not None
    assert (fault.kind, fault.ranks, fault.tied) == ("mismatch", frozenset({1}), False)


def test_a_healthy_job_has_no_fault() -> None:
    assert find(captured("healthy"), GROUPS) is None


# -- made-up jobs: a program of calls, the same on every rank but for one thing --------------------------
PROGRAM = st.lists(st.sampled_from(["dp", "tp"]), min_size=4, max_size=20)
MEMBERS = {"dp": frozenset(range(4)), "tp0": frozenset({0, 1}), "tp1": frozenset({2, 3})}
STEP = 100_000_000


def run(programs: list[list[tuple[str, str]]], state: dict[int, str] | None = None) -> dict[int, Standing]:
    """Let ranks call what their program says until nobody gets on; a call ends when all its members have begun it.

    A rank whose program is over stays alive and calls nothing more.
    """
    begun: list[dict[str, int]] = [{} for _ in programs]
    calls: list[dict[tuple[str, int], Call]] = [{} for _ in programs]
    place = [0] * len(programs)
    inside: list[tuple[str, int] | None] = [None] * len(programs)
    now = 0
    while True:
        now += STEP
        moved = False
        for rank, program in enumerate(programs):
            if inside[rank] is None and place[rank] < len(program):
                group, name = program[place[rank]]
                group = group if group == "dp" else f"tp{rank // 2}"
                sequence = begun[rank][group] = begun[rank].get(group, 0) + 1
                calls[rank][group, sequence] = Call(group, sequence, f"gloo:{name}", "[[8]]", "[]", now)
                inside[rank], place[rank], moved = (group, sequence), place[rank] + 1, True
        for rank, key in enumerate(inside):
            if key and all(begun[one].get(key[0], 0) >= key[1] for one in MEMBERS[key[0]]):
                names = {calls[one][key].name for one in MEMBERS[key[0]]}
                if len(names) == 1:
                    inside[rank], moved = None, True
        if not moved:
            break
    seen = now + 10 * SURE
    found = {}
    for rank, held in enumerate(begun):
        key = inside[rank]
        done = {g: n - 1 if key == (g, n) else n for g, n in held.items()}
        found[rank] = Standing(seen, held, done, calls[rank], (state or {}).get(rank, "alive"))
    return found


def programs(groups: list[str]) -> list[list[tuple[str, str]]]:
    return [[(group, "all_reduce") for group in groups] for _ in range(4)]


@given(PROGRAM, st.integers(0, 3), st.data())
def test_whoever_stops_calling_is_blamed_and_nobody_else(
    groups: list[str], rank: int, data: st.DataObject
) -> None:
    held = programs([*groups, "dp"])
    held[rank] = held[rank][: data.draw(st.integers(0, len(groups)))]
    ranks = run(held)
    fault = find(ranks, MEMBERS)
    assert fault is not None
    assert (fault.kind, fault.ranks) == ("missing", frozenset({rank}))
    frozen = find({**ranks, rank: ranks[rank]._replace(state="frozen")}, MEMBERS)
    assert frozen is not None
    assert (frozen.kind, frozen.ranks) == ("frozen", frozenset({rank}))


@given(PROGRAM)
def test_a_job_that_ends_has_no_fault(groups: list[str]) -> None:
    ranks = run(programs(groups))
    assert waits(ranks, MEMBERS) == []
    assert find(ranks, MEMBERS) is None


@given(st.integers(2, 8), st.integers(0, 3), st.data())
def test_whoever_leaves_a_call_out_is_blamed(steps: int, rank: int, data: st.DataObject) -> None:
    """Steps of one call among two ranks and one among all, as with tensor and data parallelism."""
    held = programs(["tp", "dp"] * steps)
    left_out = 2 * data.draw(st.integers(0, steps - 2)) + 1
    del held[rank][left_out]
    ranks = run(held)
    # Who leaves a call out may be in the next before the others are in the one that it left out, or after.
    early = data.draw(st.integers(-STEP // 2, STEP // 2))
    calls = {key: call._replace(created=call.created + early) for key, call in ranks[rank].calls.items()}
    fault = find({**ranks, rank: ranks[rank]._replace(calls=calls)}, MEMBERS)
    assert fault is not None
    assert (fault.kind, fault.ranks) == ("skipped", frozenset({rank}))


@given(st.integers(2, 8), st.integers(0, 3), st.data())
def test_whoever_swaps_two_calls_is_blamed(steps: int, rank: int, data: st.DataObject) -> None:
    held = [[("dp", "all_reduce"), ("dp", "broadcast")] * steps for _ in range(4)]
    place = 2 * data.draw(st.integers(0, steps - 1))
    held[rank][place], held[rank][place + 1] = held[rank][place + 1], held[rank][place]
    fault = find(run(held), MEMBERS)
    assert fault is not None
    assert (fault.kind, fault.ranks, fault.tied) == ("mismatch", frozenset({rank}), False)


@given(st.integers(3, 8))
def test_between_two_ranks_the_one_that_breaks_its_habit_is_blamed(steps: int) -> None:
    held = [[("tp", "all_reduce"), ("tp", "broadcast")] * steps for _ in range(4)]
    held[1][-2:] = held[1][-1:] + held[1][-2:-1]
    fault = find(run(held), MEMBERS)
    assert fault is not None
    assert (fault.kind, fault.ranks, fault.tied) == ("mismatch", frozenset({1}), False)


@pytest.mark.parametrize(("took", "kind"), [(160, "skipped"), (10, "mismatch")])
def test_who_took_the_time_of_the_work_after_a_call_has_left_it_out(took: int, kind: str) -> None:
    """An all_reduce, 10 ms later a broadcast, 150 ms later the next all_reduce: one rank makes two all_reduces in a row."""
    ranks = {}
    for rank in range(4):
        calls, at = {}, 10**18
        for place in range(1, 21):
            name, gap = ("all_reduce", 150) if place % 2 else ("broadcast", 10)
            if rank == 1 and place == 20:
                name, gap = "all_reduce", took
            at += gap * 1_000_000
            calls["0", place] = Call("0", place, f"gloo:{name}", "[[8]]", "[]", at)
        ranks[rank] = Standing(at + 3 * SURE, {"0": 20}, {"0": 19}, calls)
    fault = find(ranks, {"0": frozenset(range(4))})
    assert fault is not None
    assert (fault.kind, fault.ranks) == (kind, frozenset({1}))
    assert fault.wait.sequence == 20


def test_whoever_departs_from_its_habit_left_the_call_out() -> None:
    """Ranks 2 and 3 sum among themselves, then all meet; rank 2 goes to the meeting at once, and most wait for rank 3."""

    def calls(*path: tuple[str, int]) -> dict[tuple[str, int], Call]:
        return {
            (g, n): Call(g, n, "all_reduce", f"[[{g}]]", "", at * SURE) for at, (g, n) in enumerate(path, 1)
        }

    usual = [(group, number) for number in range(1, 6) for group in ("half", "0")]
    skipped, waiting = calls(*usual, ("0", 6)), calls(*usual, ("half", 6))
    done = {"half": 5, "0": 5}
    ranks = {
        0: Standing(20 * SURE, {"0": 6}, {"0": 5}, calls(*[(g, n) for g, n in usual if g == "0"], ("0", 6))),
        1: Standing(20 * SURE, {"0": 6}, {"0": 5}, calls(*[(g, n) for g, n in usual if g == "0"], ("0", 6))),
        2: Standing(20 * SURE, {"half": 5, "0": 6}, done, skipped),
        3: Standing(20 * SURE, {"half": 6, "0": 5}, done, waiting),
    }
    fault = find(ranks, {"0": frozenset(range(4)), "half": frozenset({2, 3})})
    assert fault is not None
    assert (fault.kind, fault.ranks, fault.wait.group) == ("skipped", frozenset({2}), "half")
