"""Walks a query's tree: each node becomes a matrix, a row of scalars, or windows over samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from misstep.store.promql import binary, functions
from misstep.store.promql.aggregate import aggregate
from misstep.store.promql.calls import OVER_WINDOWS, Arguments, call
from misstep.store.promql.errors import malformed, too_many
from misstep.store.promql.labels import I64, Bool, Labels
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.source import STALE, Quick, Selection, Source
from misstep.store.promql.steps import Steps, seconds
from misstep.store.promql.syntax import (
    Aggregate,
    Binary,
    Call,
    Moment,
    Negate,
    Node,
    Number,
    Range,
    Selector,
    Subquery,
    Text,
    kind,
)
from misstep.store.promql.windows import Windows

MINUTE = 60_000_000_000


@dataclass(frozen=True)
class Options:
    """Limits and defaults, as Prometheus has them.

    Attributes:
        lookback: nanoseconds for which a sample stands for its series if no other follows.
        samples: how many may be in memory at once.
        resolution: nanoseconds between the steps of a subquery that names none.
        check: called between steps of the work; raises where the query is to end.
    """

    lookback: int = 5 * MINUTE
    samples: int = 50_000_000
    resolution: int = MINUTE
    check: Callable[[], None] = field(default=lambda: None)


class Evaluator:
    """Evaluates nodes of one query.

    Args:
        source: where samples come from.
        steps: of the whole query; ``@ start()`` and ``@ end()`` mean them.
        options: limits and defaults.
    """

    def __init__(self, source: Source, steps: Steps, options: Options) -> None:
        self._source = source
        self._start, self._end = steps.start, steps.end
        self._options = options

    def vector(self, node: Node, steps: Steps) -> Vector:
        """An instant vector; a scalar becomes a series without labels.

        Raises:
            QueryError: the query cannot be carried out.
        """
        self._options.check()
        match node:
            case Selector():
                return self._newest(node, steps)[0]
            case Negate(inner=inner):
                found = self.vector(inner, steps)
                return found.with_values(-found.values)
            case Binary():
                return self._binary(node, steps)
            case Aggregate():
                return self._aggregate(node, steps)
            case Call() if kind(node) == "vector":
                return self._call(node, steps)
        return Vector.of_scalar(self.scalar(node, steps))

    def scalar(self, node: Node, steps: Steps) -> F64:
        """A scalar at each step, shape (S,)."""
        self._room(1, steps.number)
        match node:
            case Number(value=value):
                return np.full(steps.number, value)
            case Negate(inner=inner):
                return -self.scalar(inner, steps)
            case Binary(op=op, left=left, right=right):
                return binary.scalars(op, self.scalar(left, steps), self.scalar(right, steps))
            case Call(name="time"):
                return seconds(steps.times())
            case Call(name="pi"):
                return np.full(steps.number, np.pi)
            case Call(name="scalar", arguments=(inner,)):
                return functions.as_scalar(self.vector(inner, steps))
        raise malformed(f"{type(node).__name__.lower()} is no scalar expression")

    def windows(self, node: Node, steps: Steps) -> Windows:
        """A range vector."""
        match node:
            case Range(selector=selector, window=window):
                ends = self._at(selector.moment, steps)
                found = self._select(selector, ends, window)
                return self._windows(found, False, ends, window)
            case Subquery():
                return self._subquery(node, steps)
        raise malformed(f"{type(node).__name__.lower()} is no range vector")

    def timestamps(self, node: Node, steps: Steps) -> Vector:
        """``timestamp``: of a selector the time of its samples, of all else the evaluation's."""
        if isinstance(node, Selector):
            found, times = self._newest(node, steps)
            return found.with_values(seconds(times))
        found = self.vector(node, steps)
        return found.with_values(np.broadcast_to(seconds(steps.times()), found.values.shape))

    def text(self, node: Node) -> str:
        """A string."""
        if isinstance(node, Text):
            return node.value
        raise malformed("a string is expected")

    def _binary(self, node: Binary, steps: Steps) -> Vector:
        left, right = kind(node.left), kind(node.right)
        if left == "scalar":
            return binary.with_scalar(
                node, self.vector(node.right, steps), self.scalar(node.left, steps), swapped=True
            )
        if right == "scalar":
            return binary.with_scalar(
                node, self.vector(node.left, steps), self.scalar(node.right, steps), swapped=False
            )
        a, b = self.vector(node.left, steps), self.vector(node.right, steps)
        return binary.sets(node, a, b) if node.op in binary.SETS else binary.vectors(node, a, b)

    def _aggregate(self, node: Aggregate, steps: Steps) -> Vector:
        parameter: F64 | str | None = None
        if node.parameter is not None:
            text = kind(node.parameter) == "string"
            parameter = self.text(node.parameter) if text else self.scalar(node.parameter, steps)
        return aggregate(node, self.vector(node.inner, steps), parameter)

    def _call(self, node: Call, steps: Steps) -> Vector:
        if node.name == "timestamp":
            return self.timestamps(node.arguments[0], steps)
        arguments = Arguments(self, node.arguments, steps)
        found = call(node.name, arguments)
        if found is None:
            known = "experimental" if node.name in OVER_WINDOWS else "not supported"
            raise malformed(f"the function {node.name}() is {known}")
        return found

    def _newest(self, node: Selector, steps: Steps) -> tuple[Vector, I64]:
        """Value and time of the newest sample of each series in the lookback."""
        ends = self._at(node.moment, steps)
        lookback, most = self._options.lookback, self._options.samples
        self._options.check()
        if isinstance(self._source, Quick):
            labels, values, times = self._source.newest(node.matchers, ends, lookback, most)
        else:
            labels, values, times = self._last_of_windows(node, ends)
        self._options.check()
        present: Bool = times > ends.times() - lookback
        stale = values.view(np.uint64) == STALE
        if stale.any():
            present &= ~stale
        somewhere: Bool = np.any(present, axis=1)
        if somewhere.all():
            return Vector(labels, values, present), times
        return Vector(labels, values, present).take(somewhere), times[somewhere]

    def _last_of_windows(self, node: Selector, ends: Steps) -> tuple[Labels, F64, I64]:
        found = self._select(node, ends, self._options.lookback)
        if not len(found.value):
            return Labels.none(0), np.zeros((0, ends.number)), np.zeros((0, ends.number), np.int64)
        w = Windows(found.labels, False, *found[1:], ends, self._options.lookback)
        times = np.where(w.hi > w.lo, w.last(found.ts), ends.times() - self._options.lookback)
        return found.labels, np.asarray(w.last(found.value), np.float64), times

    def _subquery(self, node: Subquery, steps: Steps) -> Windows:
        ends = self._at(node.moment, steps)
        step = node.step or self._options.resolution
        first = ends.start - node.window
        start = first // step * step + step
        inner = Steps(start, step, max((ends.end - start) // step + 1, 0))
        self._room(1, inner.number)
        if not inner.number:
            empty = Vector.empty(1)
            nothing = np.zeros(0, np.int64)
            return Windows(empty.labels, False, nothing, nothing, np.zeros(0), ends, node.window)
        found = self.vector(node.inner, inner)
        _, column = np.nonzero(found.present)
        selection = Selection(
            found.labels,
            np.count_nonzero(found.present, axis=1),
            inner.times()[column],
            found.values[found.present],
        )
        return self._windows(selection, found.nameless, ends, node.window)

    def _windows(self, found: Selection, nameless: Bool | bool, ends: Steps, window: int) -> Windows:
        labels, sizes, ts, value = found
        stale = value.view(np.uint64) == STALE
        if stale.any():
            row = np.repeat(np.arange(len(sizes)), sizes)[~stale]
            sizes, ts, value = np.bincount(row, minlength=len(sizes)), ts[~stale], value[~stale]
        return Windows(labels, nameless, sizes, ts, value, ends, window)

    def _select(self, node: Selector, ends: Steps, window: int) -> Selection:
        self._options.check()
        found = self._source.select(node.matchers, ends.start - window, ends.end, self._options.samples)
        self._room(found.labels.size, ends.number)
        self._options.check()
        return found

    def _at(self, moment: Moment, steps: Steps) -> Steps:
        match moment.at:
            case None:
                return steps.shifted(-moment.offset)
            case "start":
                return steps.fixed(self._start - moment.offset)
            case "end":
                return steps.fixed(self._end - moment.offset)
        return steps.fixed(moment.at - moment.offset)

    def _room(self, series: int, steps: int) -> None:
        if series * steps > self._options.samples:
            raise too_many()
