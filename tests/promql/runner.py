"""Runs the commands of a script against our engine and says what became of each ``eval``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tests.promql import script

from misstep.store.promql.errors import QueryError
from misstep.store.promql.labels import Labels
from misstep.store.promql.patterns import matching
from misstep.store.promql.query import Answer, Row, instant, range_
from misstep.store.promql.source import STALE, Memory, Selection
from misstep.store.promql.syntax import Matcher

EPSILON = 1e-6
EXPERIMENTAL = "experimental syntax"
_STALE_VALUE = np.array([STALE], np.uint64).view(np.float64)[0]
_NEW_SYNTAX = re.compile(
    r"\banchored\b|\bsmoothed\b|</|>/|\binfo\(|\[[^\]]*[-+*/%^(][^\]]*\]|offset\s*\(|\b(start|end|step|range)\(\)"
)


class NativeTouchedError(Exception):
    """A query asked for a series that holds native histograms."""


class Outcome(NamedTuple):
    line: int
    text: str
    skipped: str = ""
    failure: str = ""


class Storage:
    """What was loaded; a selection that touches a native histogram is told."""

    def __init__(self) -> None:
        self._series: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
        self._native: list[dict[str, str]] = []
        self._memory: Memory | None = None

    def load(self, command: script.Load) -> None:
        self._memory = None
        for series in command.series:
            if script.NATIVE in series.values:
                self._native.append(series.labels)
                continue
            samples = self._series.setdefault(tuple(sorted(series.labels.items())), {})
            for place, value in enumerate(series.values):
                if value is not None:
                    samples[place * command.step] = _STALE_VALUE if value == script.STALE else float(value)
            name = series.labels.get("__name__", "")
            if command.nhcb and name.endswith("_bucket"):
                own = {k: v for k, v in series.labels.items() if k != "le"}
                self._native.append({**own, "__name__": name.removesuffix("_bucket")})

    def select(self, matchers: Sequence[Matcher], start: int, end: int, limit: int) -> Selection:
        if self._native and matching(Labels.of(self._native), matchers).any():
            raise NativeTouchedError
        if self._memory is None:
            self._memory = self._build()
        return self._memory.select(matchers, start, end, limit)

    def _build(self) -> Memory:
        labels = Labels.of([dict(key) for key in self._series])
        row = [np.full(len(samples), place, np.int32) for place, samples in enumerate(self._series.values())]
        flat = [(ts, value) for samples in self._series.values() for ts, value in sorted(samples.items())]
        return Memory(
            labels,
            np.concatenate([np.zeros(0, np.int32), *row]),
            np.array([ts for ts, _ in flat], np.int64),
            np.array([value for _, value in flat], np.float64),
        )


def run(commands: Iterable[script.Command]) -> list[Outcome]:
    """The outcome of each ``eval``; an instant one is asked as a range, too."""
    storage = Storage()
    found = []
    for command in commands:
        match command:
            case script.Clear():
                storage = Storage()
            case script.Load():
                storage.load(command)
            case script.Eval():
                found.append(_judge(storage, command))
    return found


def _judge(storage: Storage, given: script.Eval) -> Outcome:
    if any(script.NATIVE in s.values for s in given.series):
        return Outcome(given.line, given.text, skipped=script.NATIVE)
    try:
        failure = _compare(given, _ask(storage, given))
        if not failure and given.instant and given.series and not given.ordered and given.matrix is None:
            failure = _as_range(storage, given)
    except NativeTouchedError:
        return Outcome(given.line, given.text, skipped=script.NATIVE)
    except QueryError as error:
        if _NEW_SYNTAX.search(given.text) and error.kind == "bad_data" and not given.fails:
            return Outcome(given.line, given.text, skipped=EXPERIMENTAL)
        failure = _compare_error(given, str(error))
    return Outcome(given.line, given.text, failure=failure)


def _ask(storage: Storage, given: script.Eval) -> Answer:
    if given.instant:
        return instant(storage, given.text, given.start)
    return range_(storage, given.text, given.start, given.end, given.step)


def _as_range(storage: Storage, given: script.Eval) -> str:
    """Prometheus asks each instant query again as a range about it, and expects the same at that time."""
    minute = 60 * 10**9
    rows = list(range_(storage, given.text, given.start - minute, given.start + minute, minute).rows())
    at = [
        r._replace(ts=r.ts[r.ts == given.start], values=r.values[r.ts == given.start])
        for r in rows
        if (r.ts == given.start).any()
    ]
    return _compare_series(given, [(r.labels, r.values.tolist()) for r in at])


def _compare_error(given: script.Eval, message: str) -> str:
    if not given.fails:
        return f"failed: {message}"
    if given.message is not None and given.message != message:
        return f"failed with {message!r} instead of {given.message!r}"
    if given.pattern is not None and not re.search(given.pattern, message):
        return f"failed with {message!r}, which does not match {given.pattern!r}"
    return ""


def _compare(given: script.Eval, answer: Answer) -> str:
    rows = list(answer.rows())
    if given.fails:
        return "did not fail"
    if given.string is not None:
        return "" if answer.text == given.string else f"{answer.text!r} instead of {given.string!r}"
    if given.scalar is not None:
        value = float(rows[0].values[0])
        return (
            ""
            if answer.kind == "scalar" and alike(value, given.scalar)
            else f"{value} instead of {given.scalar}"
        )
    if given.matrix is not None:
        start, end, step = given.matrix
        grid = range(start, end + 1, step)
        found = [(r.labels, _on_grid(r, grid)) for r in rows]
    elif given.instant:
        found = [(r.labels, r.values.tolist()) for r in rows]
    else:
        grid = range(given.start, given.end + 1, given.step)
        found = [(r.labels, _on_grid(r, grid)) for r in rows]
    return _compare_series(given, found)


def _on_grid(row: Row, grid: Iterable[int]) -> list[float | None]:
    known = dict(zip(row.ts.tolist(), row.values.tolist(), strict=True))
    return [known.get(time) for time in grid]


def _compare_series(
    given: script.Eval, found: Sequence[tuple[dict[str, str], Sequence[float | None]]]
) -> str:
    expected = [(s.labels, s.values) for s in given.series if any(v is not None for v in s.values)]
    if given.ordered and [labels for labels, _ in found] != [labels for labels, _ in expected]:
        return f"order {[labels for labels, _ in found]}"
    known = {tuple(sorted(labels.items())): values for labels, values in found}
    if len(known) != len(found):
        return "the same series twice"
    for labels, values in expected:
        got = known.pop(tuple(sorted(labels.items())), None)
        if got is None:
            return f"{labels} is missing; found {found[:5]}"
        whole = list(values) + [None] * (len(got) - len(values))
        if len(whole) != len(got) or not all(alike(a, b) for a, b in zip(got, whole, strict=True)):
            return f"{labels}: {list(got)} instead of {values}"
    return f"unexpected {list(known)[:5]}" if known else ""


def alike(a: float | None, b: float | str | None) -> bool:
    """Equal but for rounding, as Prometheus' tests compare."""
    if a is None or b is None:
        return a is b
    assert isinstance(b, float)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if a == b:
        return True
    gap = abs(a - b)
    if a == 0 or b == 0 or abs(a) + abs(b) < 2.2250738585072014e-308:
        return gap < EPSILON * 2.2250738585072014e-308
    return gap / min(abs(a) + abs(b), 1.7976931348623157e308) < EPSILON
