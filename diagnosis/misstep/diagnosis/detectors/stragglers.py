"""Ranks that come late by themselves, step after step, and what their process did meanwhile."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

from misstep.core import names
from misstep.core.stacks import Frame
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.pace import Late
from misstep.diagnosis.team import Dump, Member, Team, told_early
from misstep.diagnosis.window import SECOND, Window
from misstep.store.rows import SeriesSamples

_DUMPS = 5
_SPAN = 60 * SECOND
_AROUND = 5 * SECOND
_THROTTLED = 0.02
"""Part of the time in which a cgroup was held back that is worth a word."""
_BEFORE = 12 * SECOND
"""The limits of cgroups are looked at each ten seconds: one look before the lag began tells what has come since."""

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
    cores = _cores(window, span)
    usual = [cores[one.process] for number, one in team.members.items() if number != late.rank and one.process in cores]  # fmt: skip
    facts: dict[str, Any] = {
        "rank": member.number, "pid": member.pid, "host": member.host, "process": member.process, "where": member.where,
        "lag": _time(late.lag), "share": late.share, "steps": late.steps,
        "call": f"{late.call.name} of {team.group(late.call.group)}",
        "place": frame.place if frame else "", "path": f"{frame.file}:{frame.line}" if frame else "",
        "function": frame.function if frame else "",
        "cores": cores.get(member.process), "usual_cores": median(usual) if usual else None,
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


def _cores(window: Window, span: Span) -> dict[str, float]:
    """Cores that each of the session's processes used, by its entity; one question for all."""
    held = window.view.samples(
        "process.cpu.time", {names.SESSION: window.session}, since=span[0], until=span[1]
    )
    return {str(series.labels.get(names.ENTITY, "")): _rate(series) for series in held}


def _stopped(window: Window, member: Member, span: Span) -> float:
    """Part of the looks at its process that found it stopped."""
    held = window.view.samples("process.state", {names.PID: str(member.pid)}, since=span[0], until=span[1])
    seen = {str(series.labels.get(names.PROCESS_STATE, "")): int(sum(series.values)) for series in held}
    total = sum(seen.values())
    return sum(number for state, number in seen.items() if state in ("T", "t")) / total if total else 0.0


def _throttled(window: Window, member: Member, span: Span) -> float:
    """Part of the time in which its cgroup's CPU limit held it back."""
    starts = told_early(window, member, "process.start")
    cgroup = starts[-1].attributes.get(names.CGROUP, "") if starts else ""
    if not cgroup:
        return 0.0
    held = window.view.samples(
        "cgroup.cpu.throttled.time", {names.CGROUP: cgroup}, since=span[0] - _BEFORE, until=window.at
    )
    rate = sum(map(_rate, held))
    return rate if rate >= _THROTTLED else 0.0


def _rate(series: SeriesSamples) -> float:
    """How fast a sum grew, in its unit per second."""
    if len(series.ts) < 2 or series.ts[-1] <= series.ts[0]:
        return 0.0
    return (float(series.values[-1]) - float(series.values[0])) / (
        (int(series.ts[-1]) - int(series.ts[0])) / SECOND
    )
