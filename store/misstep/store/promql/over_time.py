"""Functions of a window's values: ``sum_over_time`` and its kin. Each takes windows and gives a vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from misstep.store.promql import sums
from misstep.store.promql.labels import I64, Bool
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.order import row_quantiles
from misstep.store.promql.windows import Windows, padded, ragged

_EXACT = float(1 << 53)
_HALF_UNIT = float(np.finfo(np.float64).eps) / 2
_LONG_UNIT = float(np.finfo(np.longdouble).eps)
_LOSS = 1e-13
"""Relative error up to which differences of running sums are taken; what is worse is summed anew."""


def count(w: Windows) -> Vector:
    """``count_over_time``."""
    return w.vector(w.counts.astype(np.float64), w.counts > 0)


def present(w: Windows) -> Vector:
    """``present_over_time``."""
    return w.vector(np.ones(w.counts.shape), w.counts > 0)


def last(w: Windows) -> Vector:
    """``last_over_time``; the name stays."""
    return w.vector(w.last(w.values), w.counts > 0, nameless=False)


def first(w: Windows) -> Vector:
    """``first_over_time``; the name stays."""
    return w.vector(w.first(w.values), w.counts > 0, nameless=False)


def total(w: Windows) -> Vector:
    """``sum_over_time``."""
    return w.vector(window_sums(w), w.counts > 0)


def average(w: Windows) -> Vector:
    """``avg_over_time``."""
    found = window_sums(w) / np.maximum(w.counts, 1)
    burst = np.isinf(found) & (w.counts > 0)
    if burst.any() and np.isfinite(w.values).any():
        cells = np.flatnonzero(burst)
        counts, lo = w.counts.ravel()[cells], w.lo.ravel()[cells]
        index, begins = ragged(lo, counts)
        found = found.copy()
        found.ravel()[cells] = sums.stretches(w.values[index] / np.repeat(counts, counts), begins, counts)
    return w.vector(found, w.counts > 0)


def minimum(w: Windows) -> Vector:
    """``min_over_time``; NaN only counts where there is nothing else."""
    return w.vector(_extreme(w, np.fmin), w.counts > 0)


def maximum(w: Windows) -> Vector:
    """``max_over_time``; NaN only counts where there is nothing else."""
    return w.vector(_extreme(w, np.fmax), w.counts > 0)


def variance(w: Windows) -> Vector:
    """``stdvar_over_time``: of the population."""

    def spread(index: I64, begins: I64, lengths: I64) -> F64:
        values = w.values[index]
        origin = np.repeat(values[begins], lengths)
        mean = np.repeat(sums.stretches(values - origin, begins, lengths) / lengths, lengths) + origin
        found: F64 = sums.stretches((values - mean) ** 2, begins, lengths) / lengths
        return found

    return w.vector(_each(w, spread), w.counts > 0)


def deviation(w: Windows) -> Vector:
    """``stddev_over_time``."""
    found = variance(w)
    return found.with_values(np.sqrt(found.values))


def quantile(w: Windows, q: F64) -> Vector:
    """``quantile_over_time``; `q` has one value a step."""
    found = np.full(w.counts.shape, np.nan)
    flat, steps = found.reshape(-1), w.ends.number
    for cells, lo, lengths in w.blocks():
        flat[cells] = row_quantiles(padded(lo, lengths, w.values), lengths, q[cells % steps])
    return w.vector(found, w.counts > 0)


def absolute_deviation(w: Windows) -> Vector:
    """``mad_over_time``: median distance from the median."""
    found = np.full(w.counts.shape, np.nan)
    flat = found.reshape(-1)
    for cells, lo, lengths in w.blocks():
        rows, half = padded(lo, lengths, w.values), np.full(len(cells), 0.5)
        middle = row_quantiles(rows, lengths, half)
        flat[cells] = row_quantiles(np.abs(rows - middle[:, None]), lengths, half)
    return w.vector(found, w.counts > 0)


def time_of(w: Windows, which: str) -> Vector:
    """``ts_of_{first,last,min,max}_over_time``: seconds of that sample, of the last one among equals."""
    if which == "first":
        return w.vector(w.first(w.ts) / 1e9, w.counts > 0)
    if which == "last":
        return w.vector(w.last(w.ts) / 1e9, w.counts > 0)
    found = np.zeros(w.counts.shape)
    flat = found.reshape(-1)
    for cells, lo, lengths in w.blocks():
        rows = padded(lo, lengths, w.values)
        best = (np.fmin if which == "min" else np.fmax).reduce(rows, axis=1)
        hit = (rows == best[:, None]) | np.isnan(best)[:, None] & (
            np.arange(rows.shape[1]) < lengths[:, None]
        )
        flat[cells] = w.ts[lo + rows.shape[1] - 1 - hit[:, ::-1].argmax(axis=1)] / 1e9
    return w.vector(found, w.counts > 0)


def window_sums(w: Windows) -> F64:
    """The sum of each window, shape (n, S): a difference of running sums where that is exact enough."""
    flat = w.values
    if not len(flat):
        return np.zeros(w.counts.shape)
    finite = np.isfinite(flat)
    clean = flat if finite.all() else np.where(finite, flat, 0.0)
    if float(np.abs(clean).sum()) < _EXACT and bool((np.trunc(clean) == clean).all()):
        running = np.concatenate([[0.0], np.cumsum(clean)])
        found: F64 = running[w.hi] - running[w.lo]
        doubtful: Bool = np.zeros(found.shape, np.bool_)
    else:
        found, doubtful = _differences(w, clean)
    if clean is not flat:
        broken = np.concatenate([[0], np.cumsum(~finite)])
        doubtful |= broken[w.hi] > broken[w.lo]
    doubtful &= w.counts > 0
    cells = np.flatnonzero(doubtful)
    if len(cells):
        _again(w, found, cells)
    return found


def _differences(w: Windows, flat: F64) -> tuple[F64, Bool]:
    """Sums as differences of running sums, and which of them may be wrong in the digits that are shown."""
    # Around the mean of its series a running sum stays small, and so does what rounding takes from it.
    mean = np.bincount(w.row, flat, w.labels.size) / np.maximum(w.sizes, 1)
    running = np.zeros(len(flat) + 1, np.longdouble)
    np.cumsum(flat - mean[w.row], dtype=np.longdouble, out=running[1:])
    counts = w.counts
    base = mean[:, None].astype(np.longdouble) * counts
    found = (running[w.hi] - running[w.lo] + base).astype(np.float64)
    most = float(np.abs(running).max())
    # flat - mean is rounded once for each sample, and each step of the running sum by half a unit of what it reached.
    bound = counts * (np.abs(mean)[:, None] * _HALF_UNIT + most * _LONG_UNIT)
    doubtful: Bool = ~(bound <= _LOSS * np.abs(found))
    filled = np.concatenate([[0], np.cumsum(flat != 0)])
    empty = filled[w.hi] == filled[w.lo]
    found[empty] = 0.0
    return found, doubtful & ~empty


def _again(w: Windows, found: F64, cells: I64) -> None:
    lo, lengths = w.lo.ravel(), w.counts.ravel()
    flat = found.reshape(-1)
    size = max(2_000_000 // max(w.longest, 1), 1)
    for begin in range(0, len(cells), size):
        some = cells[begin : begin + size]
        flat[some] = sums.stretches(w.values, lo[some], lengths[some])


def _extreme(w: Windows, pick: np.ufunc) -> F64:
    """Extremes by doubling: a window is covered by two stretches whose length is a power of two."""
    found = np.full(w.counts.shape, np.nan)
    if not len(w.values):
        return found
    counts = w.counts
    level = np.frexp(np.maximum(counts, 1).astype(np.float64))[1] - 1
    table = w.values
    for power in range(int(level.max()) + 1):
        if power:
            half = 1 << (power - 1)
            table = pick(table[:-half], table[half:])
        here = (level == power) & (counts > 0)
        if here.all():
            return np.asarray(pick(table[w.lo], table[w.hi - (1 << power)]))
        if here.any():
            found[here] = pick(table[w.lo[here]], table[w.hi[here] - (1 << power)])
    return found


def _each(w: Windows, make: Callable[[I64, I64, I64], F64]) -> F64:
    """One number a window, made of blocks of windows: flat index, begins in it, lengths."""
    found = np.full(w.counts.shape, np.nan)
    flat = found.reshape(-1)
    for cells, lo, lengths in w.blocks():
        index, begins = ragged(lo, lengths)
        flat[cells] = make(index, begins, lengths)
    return found
