"""Functions of how a window's values move: ``rate`` and its kin, regression, smoothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql import sums
from misstep.store.promql.errors import failed
from misstep.store.promql.labels import I64, Bool
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.windows import Windows, padded, ragged

_SECOND = 1e9


def extrapolated(w: Windows, *, counter: bool, per_second: bool) -> Vector:
    """``rate``, ``increase`` and ``delta``: the difference over a window, stretched to its edges.

    https://github.com/prometheus/prometheus/blob/main/promql/functions.go, extrapolatedRate, says how far.
    """
    lost = _resets_between(w) if counter else None
    found = np.empty(w.counts.shape)
    for rows in w.row_blocks():
        part = found[rows]
        first_value, last_value = w.first(w.values, rows), w.last(w.values, rows)
        begin, end = w.first(w.ts, rows), w.last(w.ts, rows)
        np.subtract(last_value, first_value, out=part)
        if lost is not None:
            part += lost[rows]
        factor = _stretch(w, rows, begin, end, (first_value, part) if counter else None)
        if per_second:
            factor /= w.length / _SECOND
        part *= factor
    return w.vector(found, w.counts >= 2)


def _stretch(w: Windows, rows: slice, begin: I64, end: I64, counter: tuple[F64, F64] | None) -> F64:
    """By what the difference between two samples grows up to the edges of its window.

    Args:
        w: the windows; `rows` are meant.
        rows: some of them.
        begin: times of the first samples.
        end: times of the last.
        counter: first values and differences of what cannot fall below zero.
    """
    ends = w.ends.times()
    sampled = (end - begin) / _SECOND
    between = sampled / np.maximum(w.counts[rows] - 1, 1)
    to_start = (begin - (ends - w.length)) / _SECOND
    to_end = (ends - end) / _SECOND
    threshold = between * 1.1
    between /= 2
    np.copyto(to_start, between, where=to_start >= threshold)
    np.copyto(to_end, between, where=to_end >= threshold)
    if counter is not None:
        value, found = counter
        to_zero = sampled * (value / found)
        np.minimum(to_start, to_zero, out=to_start, where=(found > 0) & (value >= 0))
    # In the order in which Prometheus adds them.
    to_start += sampled
    to_start += to_end
    to_start /= sampled
    return to_start


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
    fell = (w.values[1:] < before) & (w.row[1:] == w.row[:-1])
    if not fell.any():
        return None
    lost = np.where(fell, before, 0.0)
    if not np.isfinite(lost).all():
        # One infinite value would spoil the running sum of every series behind it.
        infinite = np.concatenate([[0], np.cumsum(np.isinf(lost))])
        running = np.concatenate([[0.0], np.cumsum(np.where(np.isinf(lost), 0.0, lost), dtype=np.longdouble)])
        return np.where(_between(w, infinite) > 0, np.inf, _between(w, running).astype(np.float64))
    running = np.concatenate([[0.0], np.cumsum(lost, dtype=np.longdouble)])
    return _between(w, running).astype(np.float64)


def _counted(w: Windows, marks: Bool) -> Vector:
    running = np.concatenate([[0], np.cumsum(marks)]) if len(marks) else np.zeros(1, np.int64)
    found = _between(w, running) if len(w.values) else np.zeros(w.counts.shape)
    return w.vector(found.astype(np.float64), w.counts > 0)


def _between(w: Windows, running: NDArray[Any]) -> NDArray[Any]:
    """From the first sample of a window to its last; `running[i]` is the sum over the pairs before sample i."""
    most = len(running) - 1
    found = running[np.clip(w.hi - 1, 0, most)] - running[np.minimum(w.lo, most)]
    return np.where(w.counts > 0, found, 0)


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
