"""Ranks that come late by themselves, step after step, and what their process did meanwhile."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from misstep.core import names
from misstep.core.stacks import Frame
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.pace import Late
from misstep.diagnosis.team import Dump, Member, Team
from misstep.diagnosis.window import SECOND, Window

_DUMPS = 5
_OTHERS = 16
"""Ranks whose use of CPU a straggler's is compared with."""
_SPAN = 60 * SECOND
_AROUND = 5 * SECOND
_THROTTLED = 0.02
"""Part of the time in which a cgroup was held back that is worth a word."""

Span = tuple[int, int]
"""From and until, Unix nanoseconds."""


def observe(window: Window, team: Team) -> list[Observation]:
    """One observation for each straggler; its case is its own, whatever else befalls the job."""
    return [_observed(window, team, late) for late in team.pace.late if late.rank in team.members]


def _observed(window: Window, team: Team, late: Late) -> Observation:
    member = team.members[late.rank]
    # Up to the newest reading, not to the tick: what is said changes with what was read, not each second.
    span = max(late.since, late.until - _SPAN), late.until
    since = span[0]
    dumps = [one for one in member.dumps if since - _AROUND <= one.ts <= late.until + _AROUND and one.frames]
    frame = _usual(dumps[-_DUMPS:])
    cores = _cores(window, member, span)
    others = [one for number, one in team.members.items() if number != late.rank][:_OTHERS]
    usual = [known for one in others if (known := _cores(window, one, span)) is not None]
    facts: dict[str, Any] = {
        "rank": member.number, "pid": member.pid, "host": member.host, "process": member.process, "where": member.where,
        "lag": _time(late.lag), "share": late.share, "steps": late.steps,
        "call": f"{late.call.name} of {team.group(late.call.group)}",
        "place": frame.place if frame else "", "path": f"{frame.file}:{frame.line}" if frame else "",
        "function": frame.function if frame else "",
        "cores": cores, "usual_cores": median(usual) if usual else None,
        "stopped": _stopped(window, member, span), "throttled": _throttled(window, member, span),
    }  # fmt: skip
    rows = [*[row for row in member.told if row.ts >= since][-2:], *[one.row for one in dumps[-1:]]]
    return Observation(
        kind="rank.late", entity=member.entity, name=member.name, ts=late.since, source="torch_collectives",
        statement=f"comes {_time(late.lag)} late in each step, by itself: {late.share:.0%} of the job's time",
        links=frozenset({f"late/{member.number}"}), facts=facts, evidence=of_rows(rows),
    )  # fmt: skip


def _time(lag: int) -> str:
    return f"{lag / 1_000_000:.0f} ms" if lag < SECOND else f"{lag / SECOND:.1f} s"


def _usual(dumps: list[Dump]) -> Frame | None:
    """The user's line in which it was found most often."""
    own = [frame for one in dumps if (frame := next((f for f in reversed(one.frames) if f.own), None)) is not None]  # fmt: skip
    return Counter(own).most_common(1)[0][0] if own else None


def _cores(window: Window, member: Member, span: Span) -> float | None:
    """Cores that its process used; None if nobody said."""
    return _rate(window, "process.cpu.time", {names.PID: str(member.pid)}, span)


def _stopped(window: Window, member: Member, span: Span) -> float:
    """Part of the looks at its process that found it stopped."""
    held = window.view.samples("process.state", {names.PID: str(member.pid)}, since=span[0], until=span[1])
    seen = {str(series.labels.get(names.PROCESS_STATE, "")): int(sum(series.values)) for series in held}
    total = sum(seen.values())
    return sum(number for state, number in seen.items() if state in ("T", "t")) / total if total else 0.0


def _throttled(window: Window, member: Member, span: Span) -> float:
    """Part of the time in which its cgroup's CPU limit held it back."""
    starts = window.rows("process.start", attributes={names.PID: str(member.pid)})
    cgroup = starts[-1].attributes.get(names.CGROUP, "") if starts else ""
    held = _rate(window, "cgroup.cpu.throttled.time", {names.CGROUP: cgroup}, span) if cgroup else None
    return held if held is not None and held >= _THROTTLED else 0.0


def _rate(window: Window, name: str, labels: dict[str, str], span: Span) -> float | None:
    """How fast a sum grew, in its unit per second."""
    rates = [
        (float(series.values[-1]) - float(series.values[0]))
        / ((int(series.ts[-1]) - int(series.ts[0])) / SECOND)
        for series in window.view.samples(name, labels, since=span[0], until=span[1])
        if len(series.ts) > 1 and series.ts[-1] > series.ts[0]
    ]
    return sum(rates) if rates else None
