"""Times and steps as Loki's API takes them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from misstep.collector.dialect import Question
from misstep.collector.refusal import Refusal
from misstep.core.clock import SECOND

HOUR = 3600 * SECOND
_STEPS = 250
_SECONDS_DIGITS = 10
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w)")
_UNITS = {
    "ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "h": HOUR, "d": 24 * HOUR,
    "w": 7 * 24 * HOUR,
}  # fmt: skip
_MOST = 1 << 62


def interval(question: Question, usual: int = HOUR) -> tuple[int, int]:
    """``start`` and ``end``, Unix nanoseconds; without them the last hour, or ``since``.

    Raises:
        Refusal: 400, one of them is no time.
    """
    end = moment(question, "end", question.at() or time.time_ns())
    since = question.text("since")
    start = moment(question, "start", end - (duration(since, "since") if since else usual))
    if end < start:
        raise _wrong("end is before start")
    return start, end


def moment(question: Question, name: str, default: int) -> int:
    """A time: nanoseconds, seconds (up to ten digits, or with a fraction), or RFC 3339.

    Raises:
        Refusal: 400, it is none of these.
    """
    text = question.text(name)
    if not text:
        return default
    try:
        if text.isascii() and text.isdigit():
            found = int(text[:20]) * (SECOND if len(text) <= _SECONDS_DIGITS else 1)
        elif re.fullmatch(r"\d+\.\d*(?:[eE]\+?\d+)?|\d+[eE]\+?\d+", text):
            found = round(float(text) * 1e9)
        else:
            found = _rfc3339(text)
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found < _MOST:
        raise _wrong(
            f"{name}={text[:50]!r} is no time; write Unix seconds or nanoseconds, or 2026-01-31T14:02:31Z"
        )
    return found


def step(question: Question, start: int, end: int) -> int:
    """``step``: seconds or a duration; by default as many as give 250 steps.

    Raises:
        Refusal: 400, it is neither.
    """
    text = question.text("step")
    if not text:
        return max((end - start) // _STEPS // SECOND, 1) * SECOND
    return duration(text, "step")


def duration(text: str, name: str) -> int:
    """Seconds, or a duration like ``1h30m`` or ``500ms``, in nanoseconds.

    Raises:
        Refusal: 400, it is neither, or not positive.
    """
    try:
        found = round(float(text) * 1e9)
    except (ValueError, OverflowError):
        parts = _PARTS.findall(text[:100])
        whole = "".join(number + unit for number, unit in parts) == text
        found = round(sum(float(number) * _UNITS[unit] for number, unit in parts)) if whole else 0
    if not 0 < found < _MOST:
        raise _wrong(f"{name}={text[:50]!r} is no duration; write seconds, or 30s, 5m, 500ms")
    return found


def _rfc3339(text: str) -> int:
    """To the nanosecond, which `datetime` does not have."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", text)
    if match is None:
        raise ValueError
    whole = datetime.fromisoformat(match[1] + ("+00:00" if match[3] in "Zz" else match[3]))
    return int(whole.timestamp()) * SECOND + int((match[2] or "").ljust(9, "0"))


def _wrong(message: str) -> Refusal:
    return Refusal(400, "parameter", message)
