"""When a training job is read."""

from __future__ import annotations

from misstep.agent.torch.vigil import Vigil

ALL = frozenset(range(4))


def readings(vigil: Vigil, seconds: int, *, stands: bool = False, took: float = 0.0, waiting: frozenset[int] = frozenset()) -> list[tuple[int, str]]:  # fmt: skip
    found = []
    for now in range(1, seconds + 1):
        vigil.saw(ALL, waiting, now)
        if why := vigil.due(stands=stands, steps=now, now=now):
            found.append((now, why))
            vigil.took(took)
    return found


def test_a_job_that_gets_on_is_read_the_more_seldom_the_more_it_costs() -> None:
    assert [at for at, _ in readings(Vigil(0), 40)] == [10, 20, 30, 40]
    assert [at for at, _ in readings(Vigil(0), 100, took=0.08)] == [10, 42, 74]
    assert [at for at, _ in readings(Vigil(0), 130, took=1.0)] == [10, 70, 130]


def test_a_job_in_which_nothing_moved_is_not_read_again() -> None:
    vigil = Vigil(0)
    assert vigil.due(stands=False, steps=3, now=10) == "moving"
    assert vigil.due(stands=False, steps=3, now=50) == ""
    assert vigil.due(stands=False, steps=4, now=51) == "moving"


def test_a_job_that_stands_still_is_read_at_once_and_ever_more_seldom() -> None:
    assert readings(Vigil(0), 30, stands=True) == [(at, "stopped") for at in (1, 4, 7, 13, 25)]


def test_where_ranks_differ_the_job_is_read_more_often_for_a_while() -> None:
    often = readings(Vigil(0), 200, took=0.14, waiting=ALL - {2})
    assert [at for at, _ in often if at <= 20] == [5, 10, 15, 20]
    assert 6 <= len([at for at, _ in often if at > 100]) <= 8
    assert [at for at, _ in readings(Vigil(0), 60, took=0.14, waiting=ALL)] == [10]


def test_a_job_is_read_once_more_when_its_ranks_wait_alike_again() -> None:
    vigil = Vigil(0)
    readings(vigil, 20, took=0.14, waiting=ALL - {2})
    found = []
    for now in range(21, 60):
        vigil.saw(ALL, frozenset(), now)
        if vigil.due(stands=False, steps=now, now=now):
            found.append(now)
    assert len([at for at in found if at > 25]) == 1


def test_the_late_rank_is_caught_while_the_others_wait_for_it_and_only_then() -> None:
    vigil = Vigil(0)
    readings(vigil, 5, waiting=ALL - {2})
    assert vigil.late == {2}
    assert not vigil.catches(ALL, 6)
    assert not vigil.catches(frozenset(), 6)
    assert [vigil.catches(ALL - {2}, at) for at in (6, 7, 8, 10, 12)] == [True, False, True, True, False]


def test_ranks_that_wait_alike_are_not_late() -> None:
    vigil = Vigil(0)
    for now in range(20):
        vigil.saw(ALL, frozenset({now % 4, (now + 1) % 4}), now)
        assert not vigil.late
