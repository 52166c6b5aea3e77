"""Reads the test scripts of the Prometheus project: ``load``, ``clear``, ``eval`` and what is expected.

The grammar: https://github.com/prometheus/prometheus/blob/main/promql/promqltest/README.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NATIVE = "native histograms"
STALE = "stale"

_UNITS = {
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 604800 * 10**9,
    "y": 31536000 * 10**9,
}
_LOAD = re.compile(r"^load(_with_nhcb)?\s+(\S+)$")
_INSTANT = re.compile(r"^eval(?:_(\w+))?\s+instant\s+(?:at\s+(\S+))?\s+(.+)$")
_RANGE = re.compile(r"^eval(?:_(\w+))?\s+range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\s+(.+)$")
_PAIR = re.compile(
    r"""\s*("(?:\\.|[^"\\])*"|[^=,{}\s]+)\s*(?:=\s*("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))?\s*,?"""
)


@dataclass
class Series:
    """A line of ``load`` or of an expectation; a value is a float, ``stale``, None for a gap, or `NATIVE`."""

    labels: dict[str, str]
    values: list[float | str | None]


@dataclass
class Load:
    step: int
    series: list[Series]
    nhcb: bool


@dataclass
class Eval:
    line: int
    text: str
    start: int
    end: int
    step: int
    instant: bool
    series: list[Series] = field(default_factory=list)
    scalar: float | None = None
    string: str | None = None
    fails: bool = False
    message: str | None = None
    pattern: str | None = None
    ordered: bool = False
    matrix: tuple[int, int, int] | None = None


@dataclass
class Clear:
    pass


Command = Load | Eval | Clear


def read(path: Path) -> Iterator[Command]:
    """The commands of a script in order."""
    lines = path.read_text().splitlines()
    place = 0
    while place < len(lines):
        line = lines[place].strip()
        place += 1
        if not line or line.startswith("#"):
            continue
        block: list[str] = []
        if line == "clear":
            yield Clear()
            continue
        number = place
        while place < len(lines) and lines[place].strip():
            text = lines[place].strip()
            place += 1
            if not text.startswith("#"):
                block.append(text)
        yield _command(line, block, number)


def duration(text: str) -> int:
    """Nanoseconds of a duration, or of seconds without a unit."""
    if re.fullmatch(r"-?[\d.]+", text):
        return round(float(text) * 10**9)
    sign = -1 if text.startswith("-") else 1
    return sign * sum(round(float(n) * _UNITS[u]) for n, u in re.findall(r"([\d.]+)(ms|[smhdwy])", text))


def metric(text: str) -> dict[str, str]:
    """The labels of ``name{a="b"}``."""
    name, brace, rest = text.partition("{")
    labels = {"__name__": name.strip()} if name.strip() else {}
    if brace:
        for key, value in _PAIR.findall(rest[: rest.rindex("}")]):
            if value:
                labels[_unquoted(key)] = _unquoted(value)
            else:
                labels["__name__"] = _unquoted(key)
    return {k: v for k, v in labels.items() if v}


def _command(line: str, block: list[str], number: int) -> Command:
    if found := _LOAD.match(line):
        return Load(duration(found[2]), [_series(text) for text in block], found[1] is not None)
    if found := _RANGE.match(line):
        mode, start, end, step, text = found.groups()
        given = Eval(number, text, duration(start), duration(end), duration(step), False)
    elif found := _INSTANT.match(line):
        mode, at, text = found.groups()
        time = duration(at or "0")
        given = Eval(number, text, time, time, 0, True)
    else:
        raise ValueError(f"line {number}: {line!r} is not understood")
    given.fails, given.ordered = mode == "fail", mode == "ordered"
    for text in block:
        _expect(given, text)
    return given


def _expect(given: Eval, text: str) -> None:
    if text.startswith("expected_fail_message"):
        given.message = text.partition(" ")[2].strip()
    elif text.startswith("expected_fail_regexp"):
        given.pattern = text.partition(" ")[2].strip()
    elif text.startswith("expect fail"):
        given.fails = True
        kind, _, rest = text.removeprefix("expect fail").strip().partition(":")
        if kind == "msg":
            given.message = rest.strip()
        elif kind == "regex":
            given.pattern = rest.strip()
    elif text.startswith("expect ordered"):
        given.ordered = True
    elif text.startswith("expect string"):
        given.string = _unquoted(text.removeprefix("expect string").strip())
    elif found := re.match(r"expect range vector from (\S+) to (\S+) step (\S+)", text):
        given.matrix = (duration(found[1]), duration(found[2]), duration(found[3]))
    elif re.match(r"expect (no_)?(warn|info)", text):
        return
    elif re.fullmatch(r"[+-]?(\d[\d.e+-]*|\.\d+|[iI]nf|NaN|nan)", text):
        given.scalar = float(text)
    else:
        given.series.append(_series(text))


def _series(text: str) -> Series:
    inside, quote, end = 0, "", len(text)
    for place, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[place - 1] != "\\" else quote
        elif char in "\"'":
            quote = char
        elif char in "{}":
            inside += 1 if char == "{" else -1
        elif char.isspace() and not inside:
            end = place
            break
    values = text[end:]
    if "{{" in values:
        return Series(metric(text[:end]), [NATIVE])
    return Series(metric(text[:end]), [v for word in values.split() for v in _values(word)])


def _values(word: str) -> Iterator[float | str | None]:
    if word in ("_", STALE):
        yield None if word == "_" else STALE
    elif found := re.fullmatch(r"(_|stale)x(\d+)", word):
        yield from [None if found[1] == "_" else STALE] * int(found[2])
    elif found := re.fullmatch(r"(.+)x(\d+)", word):
        first, by = _sequence(found[1])
        value = first
        for _ in range(int(found[2]) + 1):
            yield value
            value += by or 0.0
    else:
        yield float(word)


def _sequence(text: str) -> tuple[float, float | None]:
    """``a+b`` or ``a-b``; the sign of an exponent is none of a step."""
    for place in range(len(text) - 1, 0, -1):
        if text[place] in "+-" and text[place - 1] not in "eE+-":
            try:
                return float(text[:place]), float(text[place:])
            except ValueError:
                continue
    return float(text), None


def _unquoted(text: str) -> str:
    if text[:1] == "`":
        return text[1:-1]
    if text[:1] in ('"', "'"):
        return (
            text[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
            if "\\" in text
            else text[1:-1]
        )
    return text
