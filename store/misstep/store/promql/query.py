"""The two kinds of query, and their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from misstep.store.promql.errors import malformed
from misstep.store.promql.evaluate import Evaluator, Options
from misstep.store.promql.labels import I64, Bool, Labels
from misstep.store.promql.matrix import F64
from misstep.store.promql.parse import parse
from misstep.store.promql.source import Source
from misstep.store.promql.steps import Steps
from misstep.store.promql.syntax import Node, Text, children, kind

POINTS_MOST = 11_000
"""Steps of a query, as in Prometheus: one each minute for a week, or each hour for a year."""


class Row(NamedTuple):
    """One series of an answer; `ts` in nanoseconds and `values` have the same length."""

    labels: dict[str, str]
    ts: I64
    values: F64


class Answer:
    """What a query found.

    Attributes:
        kind: ``scalar``, ``string``, ``vector`` or ``matrix``, as Prometheus' API names it.
        text: of a string.
        time: of an instant query, nanoseconds.
    """

    def __init__(self, kind: str, time: int, rows: Iterator[Row], text: str = "") -> None:
        self.kind, self.time, self.text = kind, time, text
        self._rows = rows

    def rows(self) -> Iterator[Row]:
        """The series, once. A scalar is one without labels."""
        return self._rows


def instant(source: Source, text: str, time: int, options: Options | None = None) -> Answer:
    """The answer at one time.

    Args:
        source: where samples come from.
        text: PromQL.
        time: Unix nanoseconds.
        options: limits.

    Raises:
        QueryError: it has no answer.
    """
    node = parse(text)
    steps = Steps(time, 1_000_000, 1)
    evaluator = Evaluator(source, steps, options or Options())
    with np.errstate(all="ignore"):
        match kind(node):
            case "string":
                return Answer("string", time, iter(()), evaluator.text(node))
            case "scalar":
                found = evaluator.scalar(node, steps)
                return Answer("scalar", time, iter([Row({}, steps.times(), found)]))
            case "matrix":
                w = evaluator.windows(node, steps)
                rows = _stretches(w.labels, w.lo[:, 0], w.hi[:, 0], w.ts, w.values)
                return Answer("matrix", time, rows)
        vector = evaluator.vector(node, steps).compact().named()
    return Answer("vector", time, _dense(vector.labels, steps.times(), vector.values, None, None))


def range_(
    source: Source, text: str, start: int, end: int, step: int, options: Options | None = None
) -> Answer:
    """The answer at every step, series in order of their labels.

    Args:
        source: where samples come from.
        text: PromQL.
        start: the first time, Unix nanoseconds.
        end: no time is later.
        step: nanoseconds.
        options: limits.

    Raises:
        QueryError: it has no answer.
    """
    if step <= 0:
        raise malformed(
            'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
            "Try a positive integer"
        )
    if end < start:
        raise malformed('invalid parameter "end": end timestamp must not be before start time')
    if (end - start) // step > POINTS_MOST:
        raise malformed(
            f"exceeded maximum resolution of {POINTS_MOST:,} points per timeseries. "
            "Try decreasing the query resolution (?step=XX)"
        )
    node = parse(text)
    if kind(node) in ("string", "matrix"):
        shown = "string" if kind(node) == "string" else "range vector"
        raise malformed(
            f'invalid parameter "query": invalid expression type "{shown}" for range query, '
            "must be Scalar or instant Vector"
        )
    steps = Steps(start, step, (end - start) // step + 1)
    evaluator = Evaluator(source, steps, options or Options())
    with np.errstate(all="ignore"):
        vector = evaluator.vector(node, steps).compact().named()
    rows = list(vector.labels.rows())
    keys = [tuple(row.items()) for row in rows]
    order = np.array(sorted(range(len(rows)), key=keys.__getitem__), np.int64)
    return Answer(
        "matrix", end, _dense(vector.labels, steps.times(), vector.values, vector.present, (order, rows))
    )


def selectors(text: str) -> list[Node]:
    """All nodes of a query, the root first.

    Raises:
        QueryError: it is not PromQL.
    """
    found: list[Node] = [parse(text)]
    for node in found:
        found.extend(c for c in children(node) if not isinstance(c, Text))
    return found


def _dense(
    labels: Labels,
    times: I64,
    values: F64,
    present: Bool | None,
    ordered: tuple[I64, list[dict[str, str]]] | None,
) -> Iterator[Row]:
    if ordered is None:
        for row, metric in enumerate(labels.rows()):
            yield Row(metric, times, values[row])
        return
    assert present is not None
    order, rows = ordered
    whole = np.all(present, axis=1).tolist()
    for row in order.tolist():
        if whole[row]:
            yield Row(rows[row], times, values[row])
        else:
            here = present[row]
            yield Row(rows[row], times[here], values[row][here])


def _stretches(labels: Labels, lo: I64, hi: I64, ts: I64, values: F64) -> Iterator[Row]:
    rows = list(labels.rows())
    keys = [tuple(row.items()) for row in rows]
    for row in sorted(range(len(rows)), key=keys.__getitem__):
        if hi[row] > lo[row]:
            yield Row(rows[row], ts[lo[row] : hi[row]], values[lo[row] : hi[row]])
