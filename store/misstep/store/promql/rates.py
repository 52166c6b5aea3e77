"""Functions of how a window's values move: ``rate`` and its kin, regression, smoothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql import sums
from misstep.store.promql.errors import failed
from misstep.store.promql.labels import I64, Bool
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.windows import ALL, Rows, Windows, padded, ragged

_SECOND = 1e9
_CAREFUL = 1 + 1e-9
"""What rounding may take from a number that decides whether another one is worked out."""


class _Edges(NamedTuple):
    """How windows lie about their samples, in seconds; shape (T, S) all.

    Attributes:
        sampled: from the first sample to the last.
        to_start: how far the difference is stretched before the first, of what may fall below zero.
        to_end: how far behind the last.
    """

    sampled: F64
    to_start: F64
    to_end: F64

    @classmethod
    def of(cls, w: Windows, some: slice = ALL) -> _Edges:
        """The edges of some timelines."""
        ends = w.ends.times()
        begin, end = w.edges(some)
        sampled = (end - begin) / _SECOND
        between = sampled / np.maximum(w.upto[some] - w.since[some] - 1, 1)
        to_start = (begin - (ends - w.length)) / _SECOND
        to_end = (ends - end) / _SECOND
        threshold = between * 1.1
        between /= 2
        np.copyto(to_start, between, where=to_start >= threshold)
        np.copyto(to_end, between, where=to_end >= threshold)
        return cls(sampled, to_start, to_end)

    def factor(self, seconds: float) -> F64:
        """By what the difference grows; in the order in which Prometheus adds and divides."""
        found = self.to_start + self.sampled
        found += self.to_end
        found /= self.sampled
        if seconds:
            found /= seconds
        return found

    def at_zero(self, cells: tuple[I64, I64], value: F64, found: F64) -> _Edges:
        """Those of some cells whose counter, going on like this, would have been below zero at the start."""
        sampled, to_start, to_end = (table[cells] for table in self)
        to_zero = sampled * (value / found)
        np.minimum(to_start, to_zero, out=to_start, where=value >= 0)
        return _Edges(sampled, to_start, to_end)


def extrapolated(w: Windows, *, counter: bool, per_second: bool) -> Vector:
    """``rate``, ``increase`` and ``delta``: the difference over a window, stretched to its edges.

    https://github.com/prometheus/prometheus/blob/main/promql/functions.go, extrapolatedRate, says how far.
    """
    lost = _resets_between(w) if counter else None
    seconds = w.length / _SECOND if per_second else 0.0
    stretch = _Stretch(_Edges.of(w), seconds) if w.shared else None
    found = np.empty(w.shape)
    for rows in w.row_blocks():
        part, first_value = found[rows], w.first(w.values, rows)
        np.subtract(w.last(w.values, rows), first_value, out=part)
        if lost is not None:
            part += lost[rows]
        if stretch is None:
            own = _Stretch(_Edges.of(w, rows), seconds)
            own.apply(part, first_value if counter else None, np.arange(len(part)))
        else:
            stretch.apply(part, first_value if counter else None, w.timeline[rows])
    return w.vector(found, w.each(w.upto - w.since >= 2))


class _Stretch:
    """What differences are multiplied with."""

    def __init__(self, edges: _Edges, seconds: float) -> None:
        self._edges, self._seconds = edges, seconds
        self._factor = edges.factor(seconds)
        self._reach = edges.to_start / edges.sampled * _CAREFUL

    def apply(self, found: F64, first: F64 | None, timeline: I64) -> None:
        """Stretch differences in place, shape (rows, S).

        Args:
            found: the differences.
            first: first values of what cannot fall below zero.
            timeline: of each row.
        """
        factor = self._factor[timeline]
        if first is not None:
            # One comparison tells nearly all from those few that begin near zero.
            near = self._reach[timeline] * found >= first
            near &= found > 0
            cells = np.flatnonzero(near)
            if len(cells):
                row, step = np.divmod(cells, near.shape[1])
                edges = self._edges.at_zero((timeline[row], step), first.flat[cells], found.flat[cells])
                factor.flat[cells] = edges.factor(self._seconds)
        found *= factor


def instant(w: Windows, *, per_second: bool) -> Vector:
    """``irate`` and ``idelta``: of the last two samples."""
    newest, before = w.last(w.values), w.last(w.values, back=1)
    apart = (w.last(w.ts) - w.last(w.ts, back=1)) / _SECOND
    found = np.asarray(newest - before, np.float64)
    if per_second:
        found = np.where(newest < before, newest, found) / np.where(apart > 0, apart, 1)
    return w.vector(found, (w.counts >= 2) & (apart > 0))


def changes(w: Windows) -> Vector:
    """``changes``: how often the value is another than before."""
    before, after = w.values[:-1], w.values[1:]
    return _counted(w, (before != after) & ~(np.isnan(before) & np.isnan(after)))


def resets(w: Windows) -> Vector:
    """``resets``: how often the value falls."""
    return _counted(w, w.values[1:] < w.values[:-1])


def derivative(w: Windows) -> Vector:
    """``deriv``: slope of the least-squares line, per second."""
    slope, _ = _regression(w, None)
    return w.vector(slope, w.counts >= 2)


def prediction(w: Windows, seconds: F64, now: I64) -> Vector:
    """``predict_linear``: the line's value so many seconds after `now`; both have one value a step."""
    slope, intercept = _regression(w, now)
    return w.vector(slope * seconds + intercept, w.counts >= 2)


def smoothed(w: Windows, factor: F64, trend: F64) -> Vector:
    """``double_exponential_smoothing``.

    Raises:
        QueryError: a factor is not between 0 and 1.
    """
    for title, given in (("smoothing", factor), ("trend", trend)):
        outside = ~((given > 0) & (given < 1))
        if outside.any():
            letter = "sf" if title == "smoothing" else "tf"
            raise failed(f"invalid {title} factor. Expected: 0 < {letter} < 1, got: {given[outside][0]:f}")
    found = np.full(w.counts.shape, np.nan)
    flat, steps = found.reshape(-1), w.ends.number
    for cells, lo, lengths in w.blocks(at_least=2):
        rows = padded(lo, lengths, w.values)
        sf, tf = factor[cells % steps], trend[cells % steps]
        before, level, slope = np.zeros(len(cells)), rows[:, 0], rows[:, 1] - rows[:, 0]
        for place in range(1, rows.shape[1]):
            inside = place < lengths
            if place > 1:
                slope = np.where(inside, tf * (level - before) + (1 - tf) * slope, slope)
            fresh = sf * rows[:, place] + (1 - sf) * (level + slope)
            before, level = np.where(inside, level, before), np.where(inside, fresh, level)
        flat[cells] = level
    return w.vector(found, w.counts >= 2)


def _resets_between(w: Windows) -> F64 | None:
    """What a counter had reached when it began anew, summed over each window; None if none did."""
    if len(w.values) < 2:
        return None
    before = w.values[:-1]
    fell = w.values[1:] < before
    fell[w.begins[(w.begins > 0) & (w.begins < len(w.values))] - 1] = False
    if not fell.any():
        return None
    lost = np.where(fell, before, 0.0)
    rows = np.unique(np.searchsorted(w.begins, np.flatnonzero(fell), "right") - 1)
    found = np.zeros(w.shape)
    if np.isfinite(lost).all():
        running = np.concatenate([[0.0], np.cumsum(lost, dtype=np.longdouble)])
        found[rows] = _between(w, running, rows)
        return found
    # One infinite value would spoil the running sum of every series behind it.
    infinite = np.concatenate([[0], np.cumsum(np.isinf(lost))])
    running = np.concatenate([[0.0], np.cumsum(np.where(np.isinf(lost), 0.0, lost), dtype=np.longdouble)])
    found[rows] = np.where(_between(w, infinite, rows) > 0, np.inf, _between(w, running, rows))
    return found


def _counted(w: Windows, marks: Bool) -> Vector:
    running = np.concatenate([[0], np.cumsum(marks)]) if len(marks) else np.zeros(1, np.int64)
    found = _between(w, running) if len(w.values) else np.zeros(w.counts.shape)
    return w.vector(found.astype(np.float64), w.counts > 0)


def _between(w: Windows, running: NDArray[Any], rows: Rows = ALL) -> NDArray[Any]:
    """From the first sample of a window to its last; `running[i]` is the sum over the pairs before sample i."""
    found = w.last(running, rows) - w.first(running, rows)
    return np.where(w.counts[rows] > 0, found, 0)


def _regression(w: Windows, origin: I64 | None) -> tuple[F64, F64]:
    """Slope and intercept of each window; times count from `origin` (one a step), or from the first sample."""
    slope, intercept = np.full(w.counts.shape, np.nan), np.full(w.counts.shape, np.nan)
    steps = w.ends.number
    for cells, lo, lengths in w.blocks(at_least=2):
        index, begins = ragged(lo, lengths)
        start = w.ts[lo] if origin is None else origin[cells % steps]
        x = (w.ts[index] - np.repeat(start, lengths)) / _SECOND
        y = w.values[index]
        sx, sy = sums.stretches(x, begins, lengths), sums.stretches(y, begins, lengths)
        sxy, sxx = sums.stretches(x * y, begins, lengths), sums.stretches(x * x, begins, lengths)
        covariance, variance = sxy - sx * sy / lengths, sxx - sx * sx / lengths
        a = covariance / variance
        b = sy / lengths - a * sx / lengths
        level = y[begins]
        constant = np.logical_and.reduceat(y == np.repeat(level, lengths), begins)
        a = np.where(constant, np.where(np.isinf(level), np.nan, 0.0), a)
        b = np.where(constant, np.where(np.isinf(level), np.nan, level), b)
        slope.reshape(-1)[cells], intercept.reshape(-1)[cells] = a, b
    return slope, intercept
