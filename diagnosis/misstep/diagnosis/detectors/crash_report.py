"""What a worker wrote about its own crash: the signal, and the Python line that it was at.

Ray installs handlers for fatal signals (absl's, then Python's faulthandler), which write into the
worker's ``.err`` file before the process dies.
"""

from __future__ import annotations

import re

from misstep.core import names
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.traceback import Frame, is_user_file
from misstep.diagnosis.window import SECOND, Window
from misstep.store.rows import LogRow

_SIGNAL = re.compile(r"\*\*\* (SIG[A-Z]+) received at time=")
_FATAL = re.compile(r"Fatal Python error: (.+)")
_CHECK = re.compile(r"Check failed: (.+?)\s*$")
_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+) in (\S+)')
_NAMED = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE",
}


def crash_report(window: Window, worker: str, pid: int, around: int, *, name: str) -> Observation | None:
    """The report of a worker's crash, or of a check of Ray's own that failed, near a moment; None if it wrote none."""
    attributes = {names.RAY_WORKER: worker} if worker else {names.PID: str(pid)}
    lines = window.rows(
        plain=True,
        attributes=attributes,
        since=around - 30 * SECOND,
        until=around + 30 * SECOND,
        limit=400,
        newest=True,
    )
    lines = sorted(
        lines, key=lambda row: (row.attributes.get(names.FILE_PATH, ""), _offset(row), row.seq, row.row)
    )
    signal, rows, stack, fatal = "", [], list[Frame](), ""
    checks: list[tuple[LogRow, str]] = []
    for row in lines:
        check = _CHECK.search(row.body)
        if check:
            checks.append((row, check[1]))
        found = _SIGNAL.search(row.body)
        if found:
            signal = signal or found[1]
            rows.append(row)
        died = _FATAL.search(row.body)
        if died:
            fatal = died[1]
            signal = signal or _NAMED.get(fatal, "")
            rows.append(row)
            stack = []
        frame = _FRAME.match(row.body)
        if fatal and frame:
            stack.append(Frame(frame[1], int(frame[2]), frame[3]))
    if not signal and checks:
        return _gave_up(worker, pid, checks, name=name)
    if not signal:
        return None
    place = next((frame for frame in stack if is_user_file(frame.file)), None)
    inside = stack[0] if stack else None
    native = f", in {inside.function}" if inside is not None and inside != place else ""
    return Observation(
        kind="crash.report",
        entity=f"ray_worker/{worker}" if worker else f"process/{pid}",
        name=name,
        ts=min(row.ts for row in rows),
        statement=f"reports {signal}" + (f" at {place.place}{native}" if place else ""),
        source="ray_logs",
        facts={
            "signal": signal, "pid": pid, "path": place.path if place else "", "place": place.place if place else "",
            "in": place.function if place else "", "inside": inside.function if inside else "",
        },
        evidence=of_rows(rows),
    )  # fmt: skip


def _gave_up(worker: str, pid: int, checks: list[tuple[LogRow, str]], *, name: str) -> Observation:
    """Ray's own code in the worker found what should not be and ended the process, with exit code 1."""
    row, check = min(checks, key=lambda found: (found[0].ts, found[0].seq, found[0].row))
    return Observation(
        kind="crash.check",
        entity=f"ray_worker/{worker}" if worker else f"process/{pid}",
        name=name,
        ts=row.ts,
        statement=f"reports that a check of Ray's own failed: {check[:160]}",
        source="ray_logs",
        facts={"pid": pid, "check": check[:300]},
        evidence=of_rows([found for found, _ in checks]),
    )


def _offset(row: LogRow) -> int:
    offset = row.attributes.get(names.FILE_OFFSET, "0")
    return int(offset) if offset.isdigit() else 0
