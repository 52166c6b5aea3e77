"""Every function of the language by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from misstep.store.promql import functions, histogram, over_time, rates, relabel
from misstep.store.promql.labels import Bool, Labels
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.steps import Steps
from misstep.store.promql.syntax import Node, Range, Selector
from misstep.store.promql.windows import Windows


class Evaluating(Protocol):
    """What arguments are evaluated by."""

    def vector(self, node: Node, steps: Steps) -> Vector:
        """An instant vector."""
        ...

    def scalar(self, node: Node, steps: Steps) -> F64:
        """One number a step."""
        ...

    def windows(self, node: Node, steps: Steps) -> Windows:
        """A range vector."""
        ...

    def text(self, node: Node) -> str:
        """A string."""
        ...


class Arguments:
    """The arguments of one call, evaluated when asked for."""

    def __init__(self, evaluator: Evaluating, nodes: Sequence[Node], steps: Steps) -> None:
        self._evaluator, self.nodes, self.steps = evaluator, nodes, steps

    def __len__(self) -> int:
        return len(self.nodes)

    def vector(self, place: int) -> Vector:
        """An instant vector."""
        return self._evaluator.vector(self.nodes[place], self.steps)

    def scalar(self, place: int) -> F64:
        """One number a step."""
        return self._evaluator.scalar(self.nodes[place], self.steps)

    def windows(self, place: int) -> Windows:
        """A range vector."""
        return self._evaluator.windows(self.nodes[place], self.steps)

    def text(self, place: int) -> str:
        """A string."""
        return self._evaluator.text(self.nodes[place])

    def texts(self, begin: int) -> list[str]:
        """All strings from one on."""
        return [self.text(place) for place in range(begin, len(self))]


OVER_WINDOWS: dict[str, Callable[[Windows], Vector]] = {
    "rate": lambda w: rates.extrapolated(w, counter=True, per_second=True),
    "increase": lambda w: rates.extrapolated(w, counter=True, per_second=False),
    "delta": lambda w: rates.extrapolated(w, counter=False, per_second=False),
    "irate": lambda w: rates.instant(w, per_second=True),
    "idelta": lambda w: rates.instant(w, per_second=False),
    "changes": rates.changes,
    "resets": rates.resets,
    "deriv": rates.derivative,
    "count_over_time": over_time.count,
    "present_over_time": over_time.present,
    "last_over_time": over_time.last,
    "first_over_time": over_time.first,
    "sum_over_time": over_time.total,
    "avg_over_time": over_time.average,
    "min_over_time": over_time.minimum,
    "max_over_time": over_time.maximum,
    "stdvar_over_time": over_time.variance,
    "stddev_over_time": over_time.deviation,
    "mad_over_time": over_time.absolute_deviation,
    "ts_of_first_over_time": lambda w: over_time.time_of(w, "first"),
    "ts_of_last_over_time": lambda w: over_time.time_of(w, "last"),
    "ts_of_min_over_time": lambda w: over_time.time_of(w, "min"),
    "ts_of_max_over_time": lambda w: over_time.time_of(w, "max"),
}
"""Functions of windows alone."""


def _absent(a: Arguments) -> Vector:
    inner = a.vector(0)
    return _missing(a, ~np.any(inner.present, axis=0))


def _absent_over_time(a: Arguments) -> Vector:
    return _missing(a, ~np.any(a.windows(0).counts > 0, axis=0))


def _missing(a: Arguments, missing: Bool) -> Vector:
    node = a.nodes[0]
    selector = node.selector if isinstance(node, Range) else node
    labels = relabel.absent_labels(selector.matchers) if isinstance(selector, Selector) else Labels.none(1)
    return Vector(labels, np.ones((1, a.steps.number)), missing[None, :]).compact()


def _round(a: Arguments) -> Vector:
    return functions.rounded(a.vector(0), a.scalar(1) if len(a) > 1 else np.ones(a.steps.number))


def _calendar(name: str) -> Callable[[Arguments], Vector]:
    def make(a: Arguments) -> Vector:
        given = a.vector(0) if len(a) else Vector.of_scalar((a.steps.times() // 10**9).astype(np.float64))
        return given.with_values(functions.CALENDAR[name](given.values))

    return make


def _simple(name: str) -> Callable[[Arguments], Vector]:
    def make(a: Arguments) -> Vector:
        given = a.vector(0)
        return given.with_values(functions.SIMPLE[name](given.values))

    return make


def _windowed(name: str) -> Callable[[Arguments], Vector]:
    return lambda a: OVER_WINDOWS[name](a.windows(0))


def _none_of_histograms(a: Arguments) -> Vector:
    """Functions of native histograms find none among floats."""
    a.vector(0)
    return Vector.empty(a.steps.number)


_NATIVE = ("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar")

_CALLS: dict[str, Callable[[Arguments], Vector]] = {
    **{name: _windowed(name) for name in OVER_WINDOWS},
    **{name: _simple(name) for name in functions.SIMPLE},
    **{name: _calendar(name) for name in functions.CALENDAR},
    **dict.fromkeys(_NATIVE, _none_of_histograms),
    "absent": _absent,
    "absent_over_time": _absent_over_time,
    "clamp": lambda a: functions.clamped(a.vector(0), a.scalar(1), a.scalar(2)),
    "clamp_min": lambda a: functions.clamped(a.vector(0), a.scalar(1), None),
    "clamp_max": lambda a: functions.clamped(a.vector(0), None, a.scalar(1)),
    "double_exponential_smoothing": lambda a: rates.smoothed(a.windows(0), a.scalar(1), a.scalar(2)),
    "holt_winters": lambda a: rates.smoothed(a.windows(0), a.scalar(1), a.scalar(2)),
    "histogram_fraction": lambda a: histogram.fraction(a.vector(2), a.scalar(0), a.scalar(1)),
    "histogram_quantile": lambda a: histogram.quantile(a.vector(1), a.scalar(0)),
    "histogram_quantiles": lambda a: histogram.quantiles(
        a.vector(0), a.text(1), [a.scalar(place) for place in range(2, len(a))]
    ),
    "label_join": lambda a: relabel.join(a.vector(0), a.text(1), a.text(2), a.texts(3)),
    "label_replace": lambda a: relabel.replace(a.vector(0), a.text(1), a.text(2), a.text(3), a.text(4)),
    "predict_linear": lambda a: rates.prediction(a.windows(0), a.scalar(1), a.steps.times()),
    "quantile_over_time": lambda a: over_time.quantile(a.windows(1), a.scalar(0)),
    "round": _round,
    "sort": lambda a: functions.sorted_by_value(a.vector(0), descending=False),
    "sort_desc": lambda a: functions.sorted_by_value(a.vector(0), descending=True),
    "sort_by_label": lambda a: relabel.sort_by_label(a.vector(0), a.texts(1), descending=False),
    "sort_by_label_desc": lambda a: relabel.sort_by_label(a.vector(0), a.texts(1), descending=True),
    "vector": lambda a: Vector.of_scalar(a.scalar(0)),
}


def call(name: str, arguments: Arguments) -> Vector | None:
    """What a function makes of its arguments; None if there is no such function."""
    make = _CALLS.get(name)
    return make(arguments) if make else None
