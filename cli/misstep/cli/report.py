"""A session's answer in words: its incidents, or one clear line that there are none, and what could not be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, tzinfo
from typing import Any

from misstep.cli.answers import LAG, behind
from misstep.cli.layout import section
from misstep.cli.terminal import Terminal, clean, paint, plain
from misstep.cli.times import clock, span
from misstep.cli.verdict import gaps, moment_of, render
from misstep.core.clock import SECOND

_NOUNS = {
    "tasks": "task",
    "actors": "actor",
    "workers": "worker",
    "nodes": "node",
    "jobs": "job",
    "ranks": "rank",
}
_STATES = {
    "FINISHED": "finished", "FAILED": "failed", "RUNNING": "running", "RUNNING_IN_RAY_GET": "waiting in ray.get",
    "RUNNING_IN_RAY_WAIT": "waiting in ray.wait", "ALIVE": "alive", "DEAD": "gone", "SUCCEEDED": "succeeded",
    "PENDING_NODE_ASSIGNMENT": "waiting for resources", "PENDING_ARGS_AVAIL": "waiting for arguments",
    "PENDING_CREATION": "being created", "RESTARTING": "restarting", "CREATED": "running", "unknown": "seen",
    "stopped": "waiting", "silent": "not answering",
}  # fmt: skip
"""States of Ray and of ranks as people say them; the others are said as they are, in small letters."""
_OVER = ("FINISHED", "FAILED", "SUCCEEDED", "STOPPED", "DEAD", "NIL", "unknown")


def report(
    answer: Mapping[str, Any],
    session: Mapping[str, Any],
    screen: Terminal,
    *,
    everything: bool = False,
    at: int | None = None,
    today: date | None = None,
    zone: tzinfo | None = None,
    flags: str = "",
) -> str:
    """The text for a session, without a newline at its end.

    Args:
        answer: of ``incidents``.
        session: its entry in ``sessions``.
        screen: what the terminal can show.
        everything: recovered incidents in full instead of one line.
        at: the time that was asked about; None is now.
        today: the reader's date.
        zone: time zone of clock times.
        flags: what commands that lead on need besides.
    """
    incidents: list[Mapping[str, Any]] = sorted(answer["incidents"], key=lambda i: (i["onset_ns"], i["id"]))
    recovered: list[Mapping[str, Any]] = sorted(answer["recovered"], key=lambda i: (i["onset_ns"], i["id"]))
    shown = [*incidents, *(recovered if everything else ())]
    parts = [
        render(i, color=screen.color, width=screen.width, started_ns=session["started_ns"], today=today, zone=zone, flags=flags)
        for i in shown
    ]  # fmt: skip
    if not incidents:
        parts.insert(0, _healthy(answer, session, screen, at, today, zone))
    if recovered and not everything:
        parts.append(_recovered(recovered, screen, zone))
    text = "\n\n".join(parts)
    return text if screen.unicode else plain(text)


def counts(summary: Mapping[str, Mapping[str, int]], *, over: bool = False) -> str:
    """``214 tasks finished, 3 running · 2 actors alive · 2 nodes alive · 1 job running``.

    Once the session is `over`, what had not come to an end is ``unfinished``, and nodes and workers are history.
    """
    parts = []
    for key, noun in _NOUNS.items():
        if over and key in ("workers", "nodes", "actors", "ranks"):
            continue
        states: dict[str, int] = {}
        for state, number in (summary.get(key) or {}).items():
            words = _STATES.get(state) or clean(state).replace("_", " ").lower()
            if over and state not in _OVER:
                words = "unfinished"
            states[words] = states.get(words, 0) + number
        if not states:
            continue
        first, *rest = sorted(states.items(), key=lambda item: (-item[1], item[0]))
        head = f"{first[1]} {noun}{'s' if first[1] != 1 else ''} {first[0]}"
        parts.append(", ".join([head, *(f"{number} {state}" for state, number in rest)]))
    return " · ".join(parts)


def _healthy(
    answer: Mapping[str, Any],
    session: Mapping[str, Any],
    screen: Terminal,
    at: int | None,
    today: date | None,
    zone: tzinfo | None,
) -> str:
    name = clean(str(session["name"]))
    words = f"{name} · {_state(answer, session, at, today, zone)}"
    sure = at is not None or behind(answer, session) <= LAG
    glyph = paint("✓", "green", "bold", on=screen.color) if sure else paint("▲", "yellow", on=screen.color)
    head = f"{glyph} {paint(words, 'bold', on=screen.color)}"
    ran = counts(answer["summary"], over=session.get("ended_ns") is not None and at is None)
    gap = section("Not seen", gaps(answer["unseen"]), screen.color, screen.width)
    parts = (
        section("Waits", _awaited(answer), screen.color, screen.width),
        section("Ran", [ran] if ran else [], screen.color, screen.width),
        gap,
    )
    body = "\n".join(part for part in parts if part)
    return f"{head}\n\n{body}" if body else head


def _awaited(answer: Mapping[str, Any]) -> list[str]:
    """What may become an incident, and how long it is given."""
    now = int(answer["as_of_ns"])
    return [
        f"{clean(one['sentence'])} For {span((now - one['since_ns']) / SECOND)} so far; it is an incident after "
        f"{span((one['until_ns'] - one['since_ns']) / SECOND)}: {clean(one['reason'])}."
        for one in answer.get("awaited") or ()
    ]


def _state(
    answer: Mapping[str, Any],
    session: Mapping[str, Any],
    at: int | None,
    today: date | None,
    zone: tzinfo | None,
) -> str:
    if at is None and (late := behind(answer, session)) > LAG:
        return (
            f"nothing found up to {clock(answer['as_of_ns'], zone, today)} · diagnosis is {span(late)} behind"
        )
    ended = session.get("ended_ns")
    if ended is not None and (at is None or ended <= at):
        how = "it vanished" if session["state"] == "lost" else "it ended"
        return f"nothing went wrong · {how} at {clock(ended, zone, today)}"
    if not any(any((answer["summary"].get(key) or {}).values()) for key in ("jobs", "ranks")):
        return f"no job has run yet · as of {clock(answer['as_of_ns'], zone, today)}"
    yet = " yet" if answer.get("awaited") else ""
    return f"nothing is wrong{yet} · as of {clock(answer['as_of_ns'], zone, today)}"


def _recovered(recovered: Sequence[Mapping[str, Any]], screen: Terminal, zone: tzinfo | None) -> str:
    entries = [f"{clock(moment_of(i), zone)} {i['title']}" for i in recovered[:3]]
    if len(recovered) > 3:
        entries.append(f"and {len(recovered) - 3} more")
    entries[-1] += " (misstep diagnose --all)"
    return section("Recovered", entries, screen.color, screen.width)
