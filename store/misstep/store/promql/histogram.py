"""Classic histograms: cumulative buckets, one series for each upper bound ``le``.

https://github.com/prometheus/prometheus/blob/main/promql/quantile.go says how values lie within a bucket.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from misstep.store.promql.labels import I64, Bool, Labels, encode
from misstep.store.promql.matrix import F64, Vector, stacked
from misstep.store.promql.numbers import read, shown

LE = "le"
_SMALL = 1e-12
"""Relative difference of two counts that is taken for an error of rounding."""


class Cells(NamedTuple):
    """Histograms at single steps that have the same buckets.

    Attributes:
        histogram: which histogram each one is, shape (n,).
        step: at which step.
        bounds: upper bounds in order, shape (buckets,).
        counts: cumulative, shape (buckets, n): what belongs to a bucket lies together.
    """

    histogram: I64
    step: I64
    bounds: F64
    counts: F64


def quantile(vector: Vector, q: F64) -> Vector:
    """``histogram_quantile``; `q` has one value a step."""
    return _made(vector, lambda cells: _quantiles(cells.bounds, cells.counts, q[cells.step]))


def quantiles(vector: Vector, label: str, given: list[F64]) -> Vector:
    """``histogram_quantiles``: one series for each quantile, told apart by a label."""
    parts = []
    for q in given:
        found = quantile(vector, q)
        texts = encode([_label(float(q[0]))] * len(found)) if len(found) else encode([])
        parts.append(Vector(found.labels.put(label, texts), found.values, found.present, found.nameless))
    return stacked(parts)


def fraction(vector: Vector, lower: F64, upper: F64) -> Vector:
    """``histogram_fraction``: the share of observations between two bounds, which have one value a step."""
    return _made(vector, lambda c: _fractions(c.bounds, c.counts, lower[c.step], upper[c.step]))


def _label(value: float) -> str:
    """A float as OpenMetrics writes it in a label: ``1.0``."""
    text = shown(value)
    return text + ".0" if text.lstrip("-").isdigit() else text


def _made(vector: Vector, make: Callable[[Cells], F64]) -> Vector:
    labels, number, cells = _cells(vector)
    values, present = np.zeros((number, vector.steps)), np.zeros((number, vector.steps), np.bool_)
    with np.errstate(all="ignore"):
        for some in cells:
            values[some.histogram, some.step] = make(some)
            present[some.histogram, some.step] = True
    return Vector(labels, values, present, nameless=True).compact()


def _cells(vector: Vector) -> tuple[Labels, int, Iterator[Cells]]:
    codes, texts = vector.labels.column(LE)
    bounds = np.array([read(text) for text in texts])[codes] if len(vector) else np.zeros(0)
    vector = vector.take(~np.isnan(bounds))
    bounds = bounds[~np.isnan(bounds)]
    rest = vector.labels.drop((LE,))
    of, first = rest.group() if len(vector) else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    return rest.take(first), len(first), _layouts(vector, of, bounds)


def _layouts(vector: Vector, of: I64, bounds: F64) -> Iterator[Cells]:
    """Histograms whose buckets have the same bounds go together."""
    order = np.lexsort((bounds, of))
    of, bounds = of[order], bounds[order]
    values, present = vector.values[order], vector.present[order]
    sizes = np.bincount(of)
    begins = np.cumsum(sizes) - sizes
    alike: dict[bytes, list[int]] = {}
    for group, (begin, size) in enumerate(zip(begins.tolist(), sizes.tolist(), strict=True)):
        alike.setdefault(bounds[begin : begin + size].tobytes(), []).append(group)
    for groups in alike.values():
        index = begins[groups] + np.arange(sizes[groups[0]])[:, None]
        # (buckets, histograms, steps) -> (buckets, histograms * steps)
        counts, there = (table[index].reshape(len(index), -1) for table in (values, present))
        histogram = np.repeat(np.array(groups), vector.steps)
        step = np.tile(np.arange(vector.steps), len(groups))
        yield from _patterns(histogram, step, bounds[index[:, 0]], counts, there)


def _patterns(histogram: I64, step: I64, bounds: F64, counts: F64, there: Bool) -> Iterator[Cells]:
    """Where some buckets are missing at some steps, what has the same buckets goes together."""
    if there.all():
        yield Cells(histogram, step, *_coalesced(bounds, counts))
        return
    packed = np.packbits(there, axis=0)
    patterns, of = np.unique(packed, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        cells = np.flatnonzero(of.ravel() == number)
        kept = there[:, cells[0]]
        if kept.any():
            yield Cells(histogram[cells], step[cells], *_coalesced(bounds[kept], counts[np.ix_(kept, cells)]))


def _coalesced(bounds: F64, counts: F64) -> tuple[F64, F64]:
    """Buckets with the same bound, written differently, are one."""
    fresh = np.concatenate([[True], bounds[1:] != bounds[:-1]])
    if fresh.all():
        return bounds, counts
    return bounds[fresh], np.add.reduceat(counts, np.flatnonzero(fresh), axis=0)


def _quantiles(bounds: F64, counts: F64, q: F64) -> F64:
    if not np.isposinf(bounds[-1]) or len(bounds) < 2:
        found = np.full(counts.shape[1], np.nan)
    else:
        found = _interpolated(bounds, _monotonic(counts), q)
    return np.where(np.isnan(q), np.nan, np.where(q < 0, -np.inf, np.where(q > 1, np.inf, found)))


def _interpolated(bounds: F64, counts: F64, q: F64) -> F64:
    total = counts[-1]
    rank = q * total
    place = np.count_nonzero(counts[:-1] < rank, axis=0)
    each = np.arange(counts.shape[1])
    before = np.maximum(place - 1, 0)
    begin = np.where(place > 0, bounds[before], 0.0)
    under = np.where(place > 0, counts[before, each], 0.0)
    found = begin + (bounds[place] - begin) * ((rank - under) / (counts[place, each] - under))
    if bounds[0] <= 0:
        found = np.where(place == 0, bounds[0], found)
    found = np.where(place == len(bounds) - 1, bounds[-2], found)
    return np.where((total == 0) | np.isnan(total), np.nan, found)


def _monotonic(counts: F64) -> F64:
    """Counts that never fall, small differences taken away: scrapes and rates are not atomic."""
    counts = counts.copy()
    for before, now in itertools.pairwise(counts):
        near = np.abs(now - before) < _SMALL * (np.abs(now) + np.abs(before))
        np.copyto(now, before, where=(now < before) | near)
    return counts


def _fractions(bounds: F64, counts: F64, lower: F64, upper: F64) -> F64:
    total = counts[-1]
    if not np.isposinf(bounds[-1]):
        return np.full(counts.shape[1], np.nan)
    share = (_rank(bounds, counts, upper) - _rank(bounds, counts, lower)) / total
    share = np.where(lower >= upper, 0.0, share)
    return np.where((total == 0) | np.isnan(total) | np.isnan(lower) | np.isnan(upper), np.nan, share)


def _rank(bounds: F64, counts: F64, value: F64) -> F64:
    """How many observations lie below a value, one value a histogram."""
    found = counts[-1].copy()
    open_ = np.ones(counts.shape[1], np.bool_)
    under = np.zeros(counts.shape[1])
    for place, bound in enumerate(bounds.tolist()):
        begin = bounds[place - 1] if place else (0.0 if bound > 0 else -np.inf)
        at_edge = open_ & (begin >= value)
        found = np.where(at_edge, under, found)
        open_ &= ~at_edge
        inside = open_ & (bound > value)
        if np.isneginf(begin):
            # Nothing can be told within a bucket without a beginning: all of it lies below.
            part = counts[place]
        else:
            part = under + (counts[place] - under) * ((value - begin) / (bound - begin))
        found = np.where(inside, part, found)
        open_ &= ~inside
        under = counts[place]
    return np.asarray(np.minimum(found, counts[-1]))
