"""How an incident reads: the words matter, a tired person acts on them.

✗ demo · task tokenize ran out of memory · 14:02:31, 38 s into the session

  Ray's memory monitor killed worker 21877 on node-2: …

  14:02:19 ▲  worker 21877 passes 1 GB, +310 MB/s        process
  14:02:31 ●  killed by the memory monitor, 6.1 GB       ray event   cause
  14:02:31    tokenize #3 fails, OUT_OF_MEMORY           consequence

  Not it     …
  Not seen   …
  Do now     …
  More       …
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, tzinfo
from typing import Any

from misstep.cli.layout import MARGIN, flow, section, wrap
from misstep.cli.terminal import clean, paint, plain
from misstep.cli.times import clock, span
from misstep.core.clock import SECOND

GLYPHS = {"symptom": "▲", "cause": "●"}
SOURCES = {
    "host": "host",
    "processes": "process",
    "process_exits": "kernel",
    "kernel_log": "kernel log",
    "ray_events": "ray event",
    "ray_metrics": "ray metric",
    "ray_logs": "ray log",
    "ray_api": "ray dashboard",
    "driver_exceptions": "driver",
    "torch_collectives": "collectives",
    "torch_stacks": "stacks",
    "agent": "agent",
}
"""The right-hand column: a source of `misstep.core.names.SOURCES` in two words at most."""

STATEMENT = 28
"""Columns below which a statement would fall to pieces; the source column goes first."""
READABLE = 76
"""Columns of a statement at most, so that its source does not stand far away."""
WIDEST = 120
"""Longer lines are hard to read, however wide the terminal."""

_COLORS = {"critical": "red", "error": "red", "warning": "yellow"}
_WORDS = {"oom": "OOM", "ray": "Ray"}


def render(
    incident: Mapping[str, Any],
    *,
    color: bool = False,
    width: int = 80,
    ascii: bool = False,
    started_ns: int | None = None,
    today: date | None = None,
    zone: tzinfo | None = None,
    flags: str = "",
) -> str:
    """The verdict as text, without a newline at its end.

    Args:
        incident: as the API gives it.
        color: paint with ANSI codes.
        width: columns; no line is longer, unless a single word or a command is.
        ascii: the terminal knows no Unicode.
        started_ns: start of the session, Unix nanoseconds; the headline says how far into it, unless the
            incident says how far into the job.
        today: the reader's date; an incident of another day says which.
        zone: time zone of the clock times; by default the machine's.
        flags: what the commands under *More* need besides, for example `` --session nightly``.
    """
    width = min(width, WIDEST)
    parts = [
        _headline(incident, color, width, started_ns, today, zone),
        _paragraph(_text(incident.get("sentence")), width),
        _chain(incident.get("chain") or (), color, width, zone),
        _sections(incident, color, width, _more(incident, zone, flags)),
    ]
    text = "\n\n".join(part for part in parts if part)
    return plain(text) if ascii else text


def gaps(unseen: Sequence[Mapping[str, Any]]) -> list[str]:
    """What could not be seen and why, each followed by the command that would open it."""
    found: list[str] = []
    for gap in unseen:
        source = _source(str(gap.get("source", "")))
        reason = str(gap.get("reason") or "")
        found.append(f"{source} ({reason})" if reason else source)
        if (remedy := f"$ {gap['remedy']}" if gap.get("remedy") else "") and remedy not in found:
            found.append(remedy)
    return found


def _headline(
    incident: Mapping[str, Any],
    color: bool,
    width: int,
    started_ns: int | None,
    today: date | None,
    zone: tzinfo | None,
) -> str:
    at = moment_of(incident)
    when = clock(at, zone, today)
    if incident.get("when"):
        when += f", {_text(incident['when'])}"
    elif started_ns is not None and at >= started_ns:
        when += f", {span((at - started_ns) / SECOND)} into the session"
    recovered = incident.get("status") == "recovered"
    glyph, hue = ("✓", "green") if recovered else ("✗", _COLORS.get(str(incident.get("severity")), "red"))
    title = _text(incident.get("title")) + (", and recovered" if recovered else "")
    words = f"{_cluster(incident)} · {title} · {when}"
    lines = wrap(words, width - MARGIN)
    return "\n".join(
        (paint(glyph, hue, "bold", on=color) + " " if i == 0 else " " * MARGIN)
        + paint(line, "bold", on=color)
        for i, line in enumerate(lines)
    )


def moment_of(incident: Mapping[str, Any]) -> int:
    """When the cause struck, Unix nanoseconds: its step in the chain, else the onset."""
    for step in incident.get("chain") or ():
        if step.get("role") == "cause":
            return int(step["ts_ns"])
    return int(incident["onset_ns"])


def _paragraph(text: str, width: int) -> str:
    return "\n".join(" " * MARGIN + line for line in wrap(text, width - MARGIN))


def _chain(steps: Sequence[Mapping[str, Any]], color: bool, width: int, zone: tzinfo | None) -> str:
    if not steps:
        return ""
    statements = [_statement(step) for step in steps]
    labels = _labels(steps)
    before = MARGIN + len("00:00:00 ●  ")
    beside = max(map(len, labels)) + 2
    room = width - before - beside
    if room < STATEMENT:
        room, labels = width - before, [""] * len(steps)
    room = min(room, READABLE, max(map(len, statements)))
    lines: list[str] = []
    for step, statement, label in zip(steps, statements, labels, strict=True):
        role = str(step.get("role"))
        glyph = paint(
            GLYPHS.get(role, " "), *{"cause": ("red", "bold"), "symptom": ("yellow",)}.get(role, ()), on=color
        )
        wrapped = wrap(statement, room) or [""]
        for i, line in enumerate(wrapped):
            body = paint(line.ljust(room), "bold", on=color) if role == "cause" else line.ljust(room)
            if i == 0:
                stamp = paint(clock(int(step["ts_ns"]), zone), "dim", on=color)
                tail = f"  {paint(label, 'dim', on=color)}" if label else ""
                lines.append(f"{' ' * MARGIN}{stamp} {glyph}  {body}{tail}".rstrip())
            else:
                lines.append(" " * before + (paint(line, "bold", on=color) if role == "cause" else line))
    return "\n".join(lines)


def _statement(step: Mapping[str, Any]) -> str:
    """``task tokenize fails, OUT_OF_MEMORY (3 times)``: name and statement, each said once."""
    name, statement, count = (
        _text(step.get("name")),
        _text(step.get("statement")),
        int(step.get("count") or 1),
    )
    words = f"{name} {statement}" if name not in statement else statement
    return words if count == 1 or str(count) in statement else f"{words} ({count} times)"


def _labels(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands beside each step: ``consequence``, or where it was seen and, in a column, that it is a cause."""
    sources = [
        SOURCES.get(source, _text(source).replace("_", " "))
        for source in (str(step.get("source") or "") for step in steps)
    ]
    roles = [str(step.get("role")) for step in steps]
    wide = max(
        (len(source) for source, role in zip(sources, roles, strict=True) if role == "cause"), default=0
    )
    return [
        role if role == "consequence" else f"{source.ljust(wide)}   cause" if role == "cause" else source
        for source, role in zip(sources, roles, strict=True)
    ]


def _more(incident: Mapping[str, Any], zone: tzinfo | None, flags: str) -> list[str]:
    """Commands that lead on, the logs around the cause first, and the cause's page."""
    around = f" --around {clock(moment_of(incident), zone)}{flags}"
    given = [_text(command) for command in incident.get("more") or ()]
    blamed = next(iter(incident.get("blamed") or ()), None)
    if blamed is not None and not any(command.startswith("misstep logs") for command in given):
        given.insert(0, f"misstep logs {_text(blamed['kind'])}/{_text(blamed.get('name') or blamed['id'])}")
    found = []
    for command in given:
        if command.startswith("misstep logs") and "--around" not in command:
            command += around
        elif command.startswith("misstep "):
            command += flags
        found.append(command)
    runbook = _text(incident.get("runbook"))
    return [*found, *([runbook] if runbook else ())]


def _sections(incident: Mapping[str, Any], color: bool, width: int, more: list[str]) -> str:
    impact = _text((incident.get("impact") or {}).get("summary"))
    not_it = [f"{cause_words(str(n['cause']))}: {n['reason']}" for n in incident.get("not_it") or ()]
    parts = [
        section("Impact", [impact] if impact else [], color, width),
        section("Not it", flow(not_it, width), color, width),
        section("Not seen", gaps(incident.get("unseen") or ()), color, width),
        section("Do now", [str(a) for a in incident.get("action") or ()], color, width),
        section("More", flow(more, width), color, width),
    ]
    return "\n".join(part for part in parts if part)


def cause_words(cause: str) -> str:
    """``kernel-oom-kill`` as a person writes it: ``kernel OOM kill``; a title stays as it is."""
    if " " in cause:
        return cause
    return " ".join(_WORDS.get(word, word) for word in cause.split("-"))


def _source(key: str) -> str:
    from misstep.core.names import SOURCES as MEANINGS

    return MEANINGS.get(key, key.replace("_", " ")).partition(" (")[0]


def _cluster(incident: Mapping[str, Any]) -> str:
    parts = str(incident.get("session", "")).split("/")
    return _text(parts[2]) if len(parts) == 4 else _text(incident.get("session"))


def _text(value: object) -> str:
    return " ".join(clean(str(value or "")).split())
