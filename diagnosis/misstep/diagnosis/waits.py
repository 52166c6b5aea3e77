"""Who keeps whom waiting in a training job: pure functions from what each rank has called to the ranks at fault.

Collectives pair by place: the n-th call of a group on one rank meets the n-th call on every other. A rank that is in
a call which another member has not begun waits for that member, and members may wait in another group in turn. At
the end of such a chain stands a rank that waits for nobody, or the chain bites its own tail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

SURE = 2_000_000_000
"""Nanoseconds by which a reading must be newer than a call of the others before it shows that a rank is missing there."""

_SAME_SIZES = ("all_reduce", "allreduce", "broadcast", "reduce", "reduce_scatter", "gloo:all_gather")
"""Operations whose sizes have to be alike; NCCL gathers uneven tensors too, Gloo does not."""
_HABIT = 200
_WORK = 10_000_000
"""Nanoseconds between two calls that are work, and not only the way from one to the other."""


class Call(NamedTuple):
    """The n-th collective of a group on one rank; `created` is when the rank began it, Unix nanoseconds."""

    group: str
    sequence: int
    operation: str
    sizes: str
    dtypes: str
    created: int

    @property
    def name(self) -> str:
        """The operation without its backend: ``all_reduce``."""
        return self.operation.partition(":")[2] or self.operation

    @property
    def shape(self) -> tuple[str, str, str]:
        """What has to be alike on every rank."""
        alike = self.name.removeprefix("_") in _SAME_SIZES or self.operation in _SAME_SIZES
        return (self.name, self.sizes if alike else "", self.dtypes if alike else "")


class Standing(NamedTuple):
    """One rank at one moment.

    Attributes:
        seen: when it was read, Unix nanoseconds; 0 if never.
        begun: by group, the sequence of its last call.
        done: by group, the sequence of the last one that came to its end.
        calls: the newest that are known, by group and sequence.
        state: ``alive``, ``frozen`` (stopped by a signal), ``dead``, ``left`` (it ended well) or ``gone`` (it is ending:
            it waits for nobody, and what it called at last is not known).
    """

    seen: int
    begun: Mapping[str, int]
    done: Mapping[str, int]
    calls: Mapping[tuple[str, int], Call]
    state: str = "alive"


class Wait(NamedTuple):
    """A call that some members of its group are in and others have not begun; `since` is when the first began it."""

    group: str
    sequence: int
    name: str
    since: int
    inside: frozenset[int]
    missing: frozenset[int]


class Fault(NamedTuple):
    """Ranks that keep the others waiting.

    Attributes:
        kind: ``missing`` (they stand elsewhere, in no collective), ``frozen``, ``dead``, ``left``, ``skipped`` (they
            are in a later call, and the others will never get there) or ``mismatch`` (they called something else).
        wait: what the others wait in.
        instead: for ``skipped`` and ``mismatch``, what the first of the ranks has called; None where all called the same,
            as far as is recorded.
        expected: for ``mismatch``, what the others have.
        tied: nothing tells who is right; every side is named.
    """

    kind: str
    ranks: frozenset[int]
    wait: Wait
    instead: Call | None = None
    expected: Call | None = None
    tied: bool = False


def find(ranks: Mapping[int, Standing], members: Mapping[str, frozenset[int]]) -> Fault | None:
    """The fault because of which a job stands still, or runs on with calls that do not fit; None if there is none.

    Args:
        ranks: by number.
        members: ranks of each group.
    """
    differs = _mismatch(ranks, members)
    blocked = waits(ranks, members)
    if differs is not None and (not blocked or differs.wait.since <= blocked[0].since):
        return differs
    for wait in blocked:
        fault = _follow(wait, blocked, ranks, frozenset())
        if fault is not None:
            return fault
    inside = [rank for rank, held in ranks.items() if held.state == "frozen"]
    if inside:  # stopped in the midst of a call that everybody has begun
        begun = pending(ranks, members)
        if begun is not None and begun.inside & set(inside):
            return Fault("frozen", begun.inside & frozenset(inside), begun)
    return differs


def waits(ranks: Mapping[int, Standing], members: Mapping[str, frozenset[int]]) -> list[Wait]:
    """Every first unfinished call that some members are in and others have not begun, the oldest first."""
    found: dict[tuple[str, int], Wait] = {}
    for held in ranks.values():
        for group, sequence in _unfinished(held):
            present = frozenset(one for one, other in ranks.items() if other.begun.get(group, 0) >= sequence)
            missing = members.get(group, frozenset(ranks)) - present
            if not missing or (group, sequence) in found:
                continue
            inside = frozenset(one for one in present if ranks[one].done.get(group, 0) < sequence)
            since, name = _began(ranks, inside, group, sequence)
            found[group, sequence] = Wait(group, sequence, name, since or held.seen, inside, missing)
    return sorted(found.values(), key=lambda wait: (wait.since, wait.group, wait.sequence))


def pending(ranks: Mapping[int, Standing], members: Mapping[str, frozenset[int]]) -> Wait | None:
    """The oldest call that all members of its group have begun and some are still in."""
    found = []
    for held in ranks.values():
        for group, sequence in _unfinished(held):
            begun = frozenset(one for one, other in ranks.items() if other.begun.get(group, 0) >= sequence)
            if begun == members.get(group):
                inside = frozenset(one for one in begun if (group, sequence) in _unfinished(ranks[one]))
                since, name = _began(ranks, inside, group, sequence)
                found.append(Wait(group, sequence, name, since, inside, frozenset()))
    return min(found, key=lambda wait: (wait.since, wait.group), default=None)


def pause(ranks: Mapping[int, Standing], group: str, before: int) -> int:
    """The longest time between two neighbouring calls of a group on one rank, nanoseconds; 0 if none is known."""
    longest = 0
    for held in ranks.values():
        for (name, sequence), call in held.calls.items():
            following = held.calls.get((name, sequence + 1))
            if name == group and sequence + 1 < before and following is not None:
                longest = max(longest, following.created - call.created)
    return longest


def _unfinished(held: Standing) -> Iterable[tuple[str, int]]:
    """Of each group the first call that a rank is in."""
    if held.state in ("dead", "left", "gone"):
        return []
    return [(g, held.done.get(g, 0) + 1) for g, last in sorted(held.begun.items()) if last > held.done.get(g, 0)]  # fmt: skip


def _began(
    ranks: Mapping[int, Standing], inside: Iterable[int], group: str, sequence: int
) -> tuple[int, str]:
    calls = [call for rank in inside if (call := ranks[rank].calls.get((group, sequence))) is not None]
    if not calls:
        return 0, "collective"
    common = Counter(call.name for call in calls).most_common(1)[0][0]
    return min(call.created for call in calls), common


def _follow(
    wait: Wait, blocked: list[Wait], ranks: Mapping[int, Standing], path: frozenset[tuple[str, int]]
) -> Fault | None:
    """From a wait along the ranks that it waits for to whoever waits for nobody."""
    path |= {(wait.group, wait.sequence)}
    kinds: dict[str, set[int]] = {}
    further: list[Fault] = []
    for rank in sorted(wait.missing):
        held = ranks.get(rank)
        if held is None or (held.state == "alive" and held.seen < wait.since + SURE):
            continue  # not read since: it may be on its way
        if held.state != "alive":
            kinds.setdefault(held.state, set()).add(rank)
            continue
        own = [one for one in blocked if rank in one.inside]
        if any((one.group, one.sequence) in path for one in own):
            kinds.setdefault("skipped", set()).add(rank)
        elif own:
            onward = _follow(own[0], blocked, ranks, path)
            if onward is not None:
                further.append(onward)
        elif not list(_unfinished(held)):
            kinds.setdefault("missing", set()).add(rank)
    for kind in ("dead", "frozen", "left", "missing"):
        if kind in kinds:
            return Fault(kind, frozenset(kinds[kind]), wait)
    direct = [fault for fault in further if fault.kind != "skipped"]
    if direct:
        return direct[0]
    if "skipped" in kinds:
        guilty = frozenset(kinds["skipped"])
        return Fault("skipped", guilty, wait, instead=_inside(ranks[min(guilty)]))
    if further:
        # A ring of waits. Whoever departs from its own habit is at fault. Else the call in which most wait should have
        # been made by those who are missing there; which of two was begun first says little, for whoever leaves a call
        # out gets to its next one at once.
        ring = [wait, *(fault.wait for fault in further)]
        departs = {rank for one in ring for rank in one.missing if rank in ranks and _departs(ranks[rank])}
        by_habit = [one for one in ring if departs & one.missing]
        main = min(by_habit or ring, key=lambda one: (-len(one.inside), one.since, one.group))
        guilty = frozenset(rank for rank in main.missing if rank in (departs if by_habit else ranks))
        return Fault("skipped", guilty, main, instead=_inside(ranks[min(guilty)])) if guilty else further[0]
    return None


def _departs(held: Standing) -> bool:
    """Whether a rank's last call, of any group, is none of those that ever followed the same call before."""
    calls = sorted(held.calls.values(), key=lambda call: call.created)[-_HABIT:]
    if len(calls) < 2:
        return False
    kinds = [(call.group, call.shape) for call in calls]
    followed = {after for before, after in pairwise(kinds[:-1]) if before == kinds[-2]}
    return bool(followed) and kinds[-1] not in followed


def _inside(held: Standing) -> Call | None:
    """The oldest call that a rank is in."""
    calls = [call for key in _unfinished(held) if (call := held.calls.get(key)) is not None]
    return min(calls, key=lambda call: call.created, default=None)


# -- calls that do not fit -----------------------------------------------------------------------------
def _mismatch(ranks: Mapping[int, Standing], members: Mapping[str, frozenset[int]]) -> Fault | None:
    """The first place of a group where ranks have called different things."""
    places: dict[tuple[str, int], dict[int, Call]] = {}
    for rank, held in ranks.items():
        for key, call in held.calls.items():
            places.setdefault(key, {})[rank] = call
    differing = [
        (key, calls) for key, calls in places.items() if len({one.shape for one in calls.values()}) > 1
    ]
    if not differing:
        return None
    differing.sort(key=lambda item: (min(call.created for call in item[1].values()), item[0]))
    group = differing[0][0][0]
    # Of a running job few calls are known, and not the same ones of every rank: a later place may say who is right.
    sides = [(*item, *_minority(item[1], ranks)) for item in differing if item[0][0] == group]
    (group, sequence), calls, guilty, right, tied = next((one for one in sides if not one[-1]), sides[0])
    inside = frozenset(rank for rank in calls if ranks[rank].done.get(group, 0) < sequence)
    expected = calls[min(right)] if right else None
    wait = Wait(
        group, sequence, (expected or calls[min(calls)]).name, min(call.created for call in calls.values()),
        inside, members.get(group, frozenset(ranks)) - frozenset(calls),
    )  # fmt: skip
    instead = calls[min(guilty)]
    if expected is not None and all(_left_out(ranks[one], calls[one], expected) for one in guilty):
        return Fault("skipped", guilty, wait._replace(inside=inside - guilty), instead)
    return Fault("mismatch", guilty, wait, instead, expected, tied)


def _left_out(held: Standing, call: Call, expected: Call) -> bool:
    """Whether a rank came to its call after the time that it usually takes past the one that the others made.

    A rank that makes two calls in the other order comes to the first after the usual time; one that leaves a call out
    and makes the next does the work between the two as well.
    """
    before = held.calls.get((call.group, call.sequence - 1))
    for sequence in range(call.sequence - 1, max(1, call.sequence - _HABIT), -1):
        one, two, three = (held.calls.get((call.group, sequence + place)) for place in (-1, 0, 1))
        if before is None or one is None or two is None or three is None:
            continue
        if (one.shape, two.shape, three.shape) == (before.shape, expected.shape, call.shape):
            between = three.created - two.created
            took, alone = call.created - before.created, two.created - one.created
            return between >= _WORK and took >= alone + between // 2
    return False


def _minority(
    calls: Mapping[int, Call], ranks: Mapping[int, Standing]
) -> tuple[frozenset[int], frozenset[int], bool]:
    """(who differs, who is right, whether nothing tells): by number, and where sides are as large, by their own habit."""
    sides: dict[tuple[str, str, str], set[int]] = {}
    for rank, call in calls.items():
        sides.setdefault(call.shape, set()).add(rank)
    weight = {shape: (len(side), sum(_habitual(ranks[rank], calls[rank]) for rank in side)) for shape, side in sides.items()}  # fmt: skip
    ordered = sorted(sides, key=lambda shape: (weight[shape], shape), reverse=True)
    best, second = ordered[0], ordered[1]
    if weight[best] == weight[second]:
        return frozenset(calls), frozenset(), True
    return frozenset(calls) - sides[best], frozenset(sides[best]), False


def _habitual(held: Standing, call: Call) -> bool:
    """Whether a rank did the same before, after the same call as now."""
    before = held.calls.get((call.group, call.sequence - 1))
    if before is None:
        return False
    for sequence in range(call.sequence - 2, max(0, call.sequence - _HABIT), -1):
        one, following = held.calls.get((call.group, sequence)), held.calls.get((call.group, sequence + 1))
        if one is not None and following is not None and one.shape == before.shape:
            return following.shape == call.shape
    return False
