"""Who comes late, step after step, while a training job gets on: pure functions from when each rank made its calls.

In a collective all leave together, so whoever comes late makes the others late in their next one too. A rank's own lag
is therefore counted from the moment at which its call before let go: when the last member of that call had begun it. A
rank that ran on without waiting counts from its own call. Both leave out what it inherits, and clocks of several hosts
may differ by a constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from operator import eq
from statistics import median
from typing import NamedTuple

from misstep.diagnosis.waits import Call

_SECOND = 1_000_000_000
WINDOWS = (4, 8, 16, 32, 64)
"""Seconds of the newest calls in which a straggler is looked for; the longer, the smaller a steady lag may be."""
SHARE = 0.1
"""Part of the job's time that a rank must cost it; the studies of stragglers call a job slowed from there on."""
FLOOR = 10_000_000
"""Nanoseconds of a step: ranks that do alike differ by 1 to 2 ms."""
_APART = 2.5
"""A straggler's lag is so many times that of the next rank; ranks whose work is graded are no stragglers."""
_STEADY, _STEADY_FEW = 7.0, 12.0
"""Mean lag in units of its standard error, for eight pieces of a window and for fewer."""
_PIECES, _FEWEST = 8, 5
_SOLE = 1.5
"""So many times as much of two ranks, one of which is always the slower."""
_KEEP = 0.8
"""Part of the pieces in which it must lag; and in `_OFTEN` of the steps, or it is other work that comes now and then."""
_OFTEN = 0.125
_RARE = 0.5
"""A call that is made in fewer steps than this (a barrier around a checkpoint) is no place to come late at."""
_ALIKE, _WORSE = 0.75, 0.15
"""Part of the calls that are the same one period later; and how much less of them than at best."""


class Late(NamedTuple):
    """A straggler.

    Attributes:
        lag: nanoseconds of its own in a usual step, or on average where it lags in some steps only.
        share: part of the job's time that they take.
        steps: how many steps were looked at.
        since: when the lag began, as far as is known, Unix nanoseconds.
        until: the newest call that was looked at.
        call: the newest of those where most of the lag shows.
    """

    rank: int
    lag: int
    share: float
    steps: int
    since: int
    until: int
    call: Call


class Pace(NamedTuple):
    """How a job gets on: its stragglers, and from when to when its calls are known for all ranks (0, 0 if for none)."""

    late: tuple[Late, ...]
    since: int
    until: int


class _Beat(NamedTuple):
    """One collective: when it let go, how long after the one before, and each member's own lag."""

    at: int
    lasted: int
    call: Call
    lags: Mapping[int, int]


def find(ranks: Mapping[int, Sequence[Call]], members: Mapping[str, frozenset[int]]) -> Pace:
    """The ranks that come late by themselves, all the time.

    Args:
        ranks: by number, the newest calls in order and without a hole.
        members: ranks of each group.
    """
    beats = _beats(ranks, members)
    if not beats:
        return Pace((), 0, 0)
    span = Pace((), beats[0].at, beats[-1].at)
    steps, parts = _steps(beats)
    everyone = len(ranks)
    for seconds in WINDOWS:
        start = span.until - seconds * _SECOND
        if start < span.since - beats[0].lasted:
            break
        held, rare = _after(steps, start), _rare(_after(parts, start))
        found = _late(held, steps, rare, everyone)
        if found:
            return span._replace(late=found)
    return span


def _beats(ranks: Mapping[int, Sequence[Call]], members: Mapping[str, frozenset[int]]) -> list[_Beat]:
    """Every collective of which all is known, by the time at which it let its members go."""
    arrivals: dict[tuple[str, int], dict[int, int]] = {}
    for rank, calls in ranks.items():
        for call in calls:
            arrivals.setdefault((call.group, call.sequence), {})[rank] = call.created
    whole = {
        key: max(came.values())
        for key, came in arrivals.items()
        if len(came) > 1 and members.get(key[0]) == came.keys()
    }
    gaps: dict[tuple[str, int], dict[int, int]] = {}
    newest: dict[tuple[str, int], Call] = {}
    for rank, calls in ranks.items():
        for before, call in pairwise(calls):
            key, release = (call.group, call.sequence), whole.get((before.group, before.sequence))
            if release is not None and key in whole:
                gaps.setdefault(key, {})[rank] = call.created - (release if call.created >= release else before.created)  # fmt: skip
                newest[key] = call
    found: list[_Beat] = []
    for key in sorted((key for key in gaps if gaps[key].keys() == arrivals[key].keys()), key=lambda k: (whole[k], k)):  # fmt: skip
        own = gaps[key]
        usual = sorted(own.values())[(len(own) - 1) // 2]
        lasted = max(0, whole[key] - found[-1].at) if found else 0
        found.append(_Beat(whole[key], lasted, newest[key], {rank: gap - usual for rank, gap in own.items()}))
    return found


def _after(steps: Sequence[list[_Beat]], start: int) -> list[list[_Beat]]:
    return [step for step in steps if step[0].at - step[0].lasted >= start]


def _steps(beats: Sequence[_Beat]) -> tuple[list[list[_Beat]], list[list[_Beat]]]:
    """Beats by step: cut where the series of calls begins anew, or into equal parts where it shows no period.

    A model in layers makes calls that repeat within a step as well. Those parts of a step come second: what few of
    them have is rare, though it may come in each step that holds many.
    """
    kinds = [(beat.call.group, beat.call.name, beat.call.sizes) for beat in beats]
    first = next((group for group, _ in Counter(kind[0] for kind in kinds).most_common(1)), "")
    mine = [place for place, kind in enumerate(kinds) if kind[0] == first]
    part, whole = _periods([kinds[place] for place in mine])
    length = whole or max(1, len(mine) // 24)
    steps = _cut(beats, mine[length::length])
    return steps, steps if part == whole else _cut(beats, mine[part::part])


def _cut(beats: Sequence[_Beat], at: Sequence[int]) -> list[list[_Beat]]:
    return _whole([list(beats[one:two]) for one, two in pairwise([0, *at, len(beats)]) if one < two])


def _whole(steps: list[list[_Beat]]) -> list[list[_Beat]]:
    """Fold what is too short for a step (a call that few steps have) into the one before; leave out a last one that is not over."""
    least = median(_lasted(step) for step in steps) / 4
    found: list[list[_Beat]] = []
    over = len(steps[-1]) >= median(map(len, steps))
    for step in steps if over else steps[:-1]:
        if found and _lasted(step) < least:
            found[-1] += step
        else:
            found.append(step)
    return found


def _lasted(step: Sequence[_Beat]) -> int:
    return sum(beat.lasted for beat in step)


def _periods(kinds: Sequence[object]) -> tuple[int, int]:
    """After how many calls they repeat, roughly and well; 0 where they do not."""
    fits = {
        period: sum(map(eq, kinds, kinds[period:])) / (len(kinds) - period)
        for period in range(1, len(kinds) // _FEWEST + 1)
    }
    part = next((period for period, fit in fits.items() if fit >= _ALIKE), 0)
    best = max(fits.values(), default=0.0)
    return part, next((period for period, fit in fits.items() if fit >= max(_ALIKE, best - _WORSE)), 0)


def _late(
    steps: list[list[_Beat]],
    known: list[list[_Beat]],
    rare: frozenset[tuple[str, str, str]],
    everyone: int,
) -> tuple[Late, ...]:
    """The stragglers of some steps, the worst first."""
    total = sum(map(_lasted, steps))
    if len(steps) < _FEWEST or total <= 0:
        return ()
    sums: Counter[int] = Counter()
    for step in steps:
        sums.update(_lags(step, rare))
    ordered = sorted(sums, key=lambda rank: (-sums[rank], rank))
    most = max(1, (everyone - 1) // 2)
    found = []
    for place, rank in enumerate(ordered[:most]):
        if sums[rank] < SHARE * total or not _steady(
            rank, sums[rank], total, steps, rare, _SOLE if everyone == 2 else 1.0
        ):
            break
        found.append(_told(rank, sums[rank] // len(steps), sums[rank] / total, steps, known, rare))
        rest = max((sums[one] for one in ordered[place + 1 :]), default=0)
        if sums[rank] >= _APART * max(0, rest):
            return tuple(found)
    return ()


def _rare(steps: Sequence[Sequence[_Beat]]) -> frozenset[tuple[str, str, str]]:
    counts = Counter((beat.call.group, beat.call.name, beat.call.sizes) for step in steps for beat in step)
    return frozenset(kind for kind, count in counts.items() if count < _RARE * len(steps))


def _lags(step: Sequence[_Beat], rare: frozenset[tuple[str, str, str]]) -> Counter[int]:
    found: Counter[int] = Counter()
    for beat in step:
        if (beat.call.group, beat.call.name, beat.call.sizes) not in rare:
            for rank, lag in beat.lags.items():
                found[rank] += lag
    return found


def _steady(
    rank: int,
    lag: int,
    total: int,
    steps: Sequence[Sequence[_Beat]],
    rare: frozenset[tuple[str, str, str]],
    doubt: float,
) -> bool:
    """Whether a rank lags all the time, not once or by chance."""
    if lag < FLOOR * len(steps):
        return False
    own = [_lags(step, rare)[rank] for step in steps]
    lasted = [max(1, _lasted(step)) for step in steps]
    if sum(one >= max(FLOOR, SHARE * total / len(steps)) for one in own) < max(2.0, _OFTEN * len(steps)):
        return False
    pieces = min(_PIECES, len(steps))
    cuts = [place * len(steps) // pieces for place in range(pieces + 1)]
    parts = [sum(own[one:two]) / sum(lasted[one:two]) for one, two in pairwise(cuts)]
    mean = sum(parts) / pieces
    spread = sqrt(sum((part - mean) ** 2 for part in parts) / (pieces - 1))
    limit = doubt * (_STEADY if pieces == _PIECES else _STEADY_FEW)
    often = sum(part >= mean / 3 for part in parts) >= _KEEP * pieces
    return often and mean >= limit * spread / sqrt(pieces)


def _told(
    rank: int,
    lag: int,
    share: float,
    steps: Sequence[Sequence[_Beat]],
    known: Sequence[Sequence[_Beat]],
    rare: frozenset[tuple[str, str, str]],
) -> Late:
    by_kind: Counter[tuple[str, str, str]] = Counter()
    calls: dict[tuple[str, str, str], Call] = {}
    for step in steps:
        for beat in step:
            kind = (beat.call.group, beat.call.name, beat.call.sizes)
            by_kind[kind] += beat.lags.get(rank, 0)
            calls[kind] = beat.call
    since, clean = steps[0][0].at, 0
    for step in reversed(known):
        if _lags(step, rare)[rank] >= lag // 3:
            since, clean = min(since, step[0].at), 0
        elif (clean := clean + 1) > max(2, len(steps) // 2):
            break
    usual = round(median(_lags(step, rare)[rank] for step in steps))
    worst = max(by_kind, key=lambda kind: (by_kind[kind], kind))
    return Late(rank, max(lag, usual), share, len(steps), since, steps[-1][-1].at, calls[worst])
