"""The two kinds of query, and their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from misstep.store.promql.errors import malformed
from misstep.store.promql.evaluate import Evaluator, Options
from misstep.store.promql.labels import I64, NAME, Labels
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.parse import parse
from misstep.store.promql.source import Source
from misstep.store.promql.steps import Steps
from misstep.store.promql.syntax import Aggregate, Call, Node, Text, children, kind
from misstep.store.promql.windows import Windows

POINTS_MOST = 11_000
"""Steps of a query, as in Prometheus: one each minute for a week, or each hour for a year."""


class Row(NamedTuple):
    """One series of an answer.

    Attributes:
        table: the labels of all of them.
        place: which of these it is.
        ts: nanoseconds, as many as `values`.
    """

    table: Labels
    place: int
    ts: I64
    values: F64

    @property
    def labels(self) -> dict[str, str]:
        """Its labels in order of their names."""
        return self.table.row(self.place)


class Answer:
    """What a query found.

    Attributes:
        kind: ``scalar``, ``string``, ``vector`` or ``matrix``, as Prometheus' API names it.
        time: of an instant query, nanoseconds.
        labels: of all series; a scalar is one without labels.
        text: of a string.
    """

    def __init__(self, kind: str, time: int, labels: Labels, rows: Iterable[Row], text: str = "") -> None:
        self.kind, self.time, self.labels, self.text = kind, time, labels, text
        self._rows = rows

    def rows(self) -> Iterator[Row]:
        """The series; ask once."""
        return iter(self._rows)


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
                return Answer("string", time, Labels.none(0), (), evaluator.text(node))
            case "scalar":
                one = Labels.none(1)
                return Answer(
                    "scalar", time, one, [Row(one, 0, steps.times(), evaluator.scalar(node, steps))]
                )
            case "matrix":
                windows = evaluator.windows(node, steps)
                gone = np.broadcast_to(np.asarray(windows.nameless, np.bool_), (windows.labels.size,))
                labels = windows.labels.blank(NAME, gone)
                return Answer("matrix", time, labels, _stretches(windows, labels))
        vector = evaluator.vector(node, steps).compact().named()
    if not _orders(node):
        vector = vector.take(vector.labels.order())
    return Answer("vector", time, vector.labels, _columns(vector.labels, steps.times(), vector.values))


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
    return Answer("matrix", end, vector.labels, _dense(vector, steps.times()))


def selectors(text: str) -> list[Node]:
    """All nodes of a query, the root first.

    Raises:
        QueryError: it is not PromQL.
    """
    found: list[Node] = [parse(text)]
    for node in found:
        found.extend(c for c in children(node) if not isinstance(c, Text))
    return found


def _orders(node: Node) -> bool:
    """Whether the order of an instant answer is part of it."""
    match node:
        case Call(name=name):
            return name.startswith("sort")
        case Aggregate(op=op):
            return op in ("topk", "bottomk")
    return False


def _columns(labels: Labels, times: I64, values: F64) -> Iterator[Row]:
    for place in range(labels.size):
        yield Row(labels, place, times, values[place])


def _dense(vector: Vector, times: I64) -> Iterator[Row]:
    labels, values, present = vector.labels, vector.values, vector.present
    whole = np.all(present, axis=1).tolist()
    for place in labels.order().tolist():
        if whole[place]:
            yield Row(labels, place, times, values[place])
        else:
            here = present[place]
            yield Row(labels, place, times[here], values[place][here])


def _stretches(w: Windows, labels: Labels) -> Iterator[Row]:
    lo, hi = w.lo[:, 0], w.hi[:, 0]
    for place in labels.order().tolist():
        if hi[place] > lo[place]:
            stretch = slice(lo[place], hi[place])
            yield Row(labels, place, w.ts[stretch], w.values[stretch])
