"""Waits that no recorder tells of: the meeting at the beginning, barriers with a limit, sends and receives over Gloo.

Only stacks show them. Whose main thread stands in such a call at two readings and did not wake between them has waited
there all the time; where others stand elsewhere meanwhile, it waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from misstep.core import names
from misstep.diagnosis.team import Dump, Member
from misstep.diagnosis.waits import SURE, Fault, Wait

MEETING = "init_process_group"
"""In it every rank waits for all others."""
_CALLS = frozenset(("send", "recv", "send_object_list", "recv_object_list", "batch_isend_irecv", "monitored_barrier"))  # fmt: skip
_REQUEST = "wait"
"""Method of a request that `isend` and `irecv` return, in C++."""
_PACKAGE, _PIPELINE = "torch/distributed/", "torch/distributed/pipelining/"


def apart(members: Mapping[int, Member], everybody: frozenset[int], until: int) -> Fault | None:
    """Ranks that keep others waiting in such calls; None where somebody moves or nobody waits.

    Where all of a job wait, each for another, nothing tells whose fault it is.

    Args:
        everybody: the ranks of the job; of some we may not know.
    """
    if not any(one.snapshots for one in members.values()):
        return _never_met(members, until)
    alive = {n: one for n, one in members.items() if one.end is None or one.end.ts > until}
    inside: dict[int, int] = {}
    calls: set[str] = set()
    missing: set[int] = set()
    for number, member in alive.items():
        dumps = _still(member, until)
        if not dumps:
            return None
        call = _call(dumps[-1])
        if not call:
            missing.add(number)
            continue
        since = _waits(member, dumps)
        if dumps[-1].ts - since < SURE:
            return None
        inside[number] = since
        calls.add(call)
    if not inside:
        return None
    wait = Wait(
        "", 0, " and ".join(sorted(calls)), min(inside.values()), frozenset(inside), frozenset(missing)
    )
    if missing:
        return Fault("missing", wait.missing, wait)
    return Fault("mismatch", wait.inside, wait, tied=True) if 1 < len(everybody) <= len(wait.inside) else None


def waiting(members: Mapping[int, Member], until: int) -> frozenset[int]:
    """Ranks that stand still in such a call."""
    last = {n: dumps[-1] for n, member in members.items() if (dumps := _still(member, until))}
    return frozenset(number for number, dump in last.items() if _call(dump))


def _still(member: Member, until: int) -> list[Dump]:
    """A rank's stacks since it stands still; none while it moves."""
    told = [one for one in member.snapshots if one.ts <= until]
    stopped = list(takewhile(lambda one: one.state == "stopped", reversed(told)))
    return member.stacks(stopped[-1].ts, until) if stopped else []


def _waits(member: Member, dumps: list[Dump]) -> int:
    """Since when it is known not to have woken."""
    sleeps = {one.row.attributes.get(names.READING, ""): one.sleeps for one in member.snapshots}
    last = sleeps.get(dumps[-1].together, -1)
    asleep = takewhile(lambda one: _call(one) and sleeps.get(one.together, -1) == last >= 0, reversed(dumps))
    return min((one.ts for one in asleep), default=dumps[-1].ts)


def _call(dump: Dump) -> str:
    """The call that waits for other ranks and leaves no entry; empty if it stands in none."""
    for frame in dump.frames:
        if _PACKAGE in frame.file and frame.function in _CALLS:
            return frame.function
        if _PIPELINE in frame.file:
            return "its pipeline"
    return "a request's wait" if dump.call == _REQUEST else ""


def _never_met(members: Mapping[int, Member], until: int) -> Fault | None:
    """Ranks that do not come to the beginning, where the others wait for them to make the first group."""
    met = [one.ts for member in members.values() for one in member.dumps if _meets(one)]
    newest = {n: member.dumps[-1] for n, member in members.items() if member.dumps and member.end is None}
    inside = frozenset(n for n, one in newest.items() if _meets(one))
    missing = frozenset(newest) - inside
    if not inside or not missing or max(one.ts for one in newest.values()) > until:
        return None
    return Fault("missing", missing, Wait("", 0, MEETING, min(met), inside, missing))


def _meets(dump: Dump) -> bool:
    return any(frame.function == MEETING for frame in dump.frames)
