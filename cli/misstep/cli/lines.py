"""Stored records as lines of text: time, where it comes from, what it says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from pathlib import PurePosixPath
from typing import Any

from misstep.cli.terminal import clean, paint
from misstep.cli.times import local
from misstep.core import names

ORIGIN = 26
"""Columns for where a line comes from."""
_SHORT = 10
_ERROR, _WARNING = 17, 13  # OTLP severity numbers
_BODIES = {event.name: event.body for event in names.EVENTS}
_SAID = {
    names.RAY_TASK_NAME: "", names.RAY_ACTOR_CLASS: "", names.RAY_NODE_NAME: "", names.PID: "pid ",
    names.RAY_ERROR_TYPE: "", names.RAY_EXIT_TYPE: "", names.EXIT_CODE: "code ", names.EXIT_SIGNAL: "",
    names.SOURCE_REASON: "", names.COMMAND: "",
}  # fmt: skip
"""The attributes of an event that a person wants beside its name, and the word before each; ``--json`` has all."""


def line(row: Mapping[str, Any], *, color: bool = False, zone: tzinfo | None = None) -> str:
    """One record of ``logs`` as one line."""
    at = int(row["ts_ns"])
    stamp = f"{local(at, zone):%H:%M:%S}.{at // 1_000_000 % 1000:03d}"
    origin = clean(_origin(row))[:ORIGIN].ljust(ORIGIN)
    text = _event(row) if row["event"] else str(row["body"])
    severity = int(row["severity"])
    hue = ("red",) if severity >= _ERROR else ("yellow",) if severity >= _WARNING else ()
    said = paint(clean(text), *hue, on=color and bool(hue))
    return f"{paint(stamp, 'dim', on=color)}  {paint(origin, 'cyan', on=color)}  {said}"


def _origin(row: Mapping[str, Any]) -> str:
    if not row["event"] and (path := row["attributes"].get(names.FILE_PATH)):
        stem = PurePosixPath(path).name
        pid = row["attributes"].get(names.PID)
        return f"{stem.partition('-')[0]} {pid}" if pid else stem
    kind, _, id = str(row["entity"]).partition("/")
    if kind == "process" and id.count("/") == 2:
        id = id.split("/")[1]
    elif kind == "session":
        id = "/".join(id.split("/")[2:3])
    return f"{kind} {id[:_SHORT]}" if id else kind


def _event(row: Mapping[str, Any]) -> str:
    attributes = row["attributes"]
    parts = [row["event"], row["state"]]
    parts += [f"{word}{attributes[key]}" for key, word in _SAID.items() if attributes.get(key)]
    if row["event"] == "source.state":
        parts.insert(1, str(attributes.get(names.SOURCE, "")))
    words = str(row["body"]).strip().splitlines()
    if words and _BODIES.get(row["event"]) != "json":
        parts.append(f"| {words[-1]}")  # of a traceback, the error
    return " ".join(str(part) for part in parts if part)
