"""Histograms and summaries as classic series: what one point becomes, column by column.

An explicit or exponential histogram ``x`` becomes ``x.bucket{le}``, ``x.sum`` and ``x.count``; a summary becomes
``x{quantile}``, ``x.sum`` and ``x.count``. Buckets are cumulative, as Prometheus counts them. Semantics:
https://opentelemetry.io/docs/specs/otel/metrics/data-model/ (Histogram, ExponentialHistogram).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.store.columns import I64, lists, owners, running, sums, take_ranges

BUCKETS_LIMIT = 2000
"""Buckets or quantiles of one point; SDKs make at most 160. More would turn one byte of a request into a row each."""

PLAIN, BUCKET, SUM, COUNT = range(4)
SUFFIXES = ("", ".bucket", ".sum", ".count")
"""What a series' name has behind the metric's, by the codes above; Prometheus writes an underscore for the dot."""

_SCALES = (-48, 48)
"""Beyond it boundaries fall together or leave the range of a double."""


class Rows(NamedTuple):
    """Samples made of points, in any order; each column of shape (m,).

    Attributes:
        point: index of the point.
        suffix: an index into `SUFFIXES`.
        bound: value of label ``le`` or ``quantile``; NaN where there is none.
        value: as float64; counts beyond 2^53 lose their last digits.
    """

    point: I64
    suffix: NDArray[np.int8]
    bound: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def joined(cls, *parts: Rows) -> Rows:
        """All rows of all parts."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def sorted(self) -> Rows:
        """By point; what one point brought stays in order."""
        order = np.argsort(self.point, kind="stable")
        return Rows(self.point[order], self.suffix[order], self.bound[order], self.value[order])


def explicit(points: Any, stale: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of ``HistogramDataPoint`` structs, and a mask of the points whose buckets do not hold together."""
    counts, count_at = lists(points.field("bucket_counts"))
    bounds, bound_at = lists(points.field("explicit_bounds"))
    limits = bounds.to_numpy(zero_copy_only=False)
    buckets, edges = np.diff(count_at), np.diff(bound_at)
    bad = ((buckets > 0) & (buckets != edges + 1)) | (edges > BUCKETS_LIMIT) | _unordered(limits, bound_at)
    used = np.flatnonzero(~bad & (buckets > 0))
    at, offsets = take_ranges(bound_at, used)
    point = used[owners(offsets)]
    total = running(counts.to_numpy(zero_copy_only=False), count_at)
    bound, value = limits[at], total[at - bound_at[point] + count_at[point]].astype(np.float64)
    finite = np.isfinite(bound)
    return Rows.joined(
        _bucket(point[finite], bound[finite], value[finite]), *_totals(points, stale, bad)
    ), bad


def exponential(points: Any, stale: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of ``ExponentialHistogramDataPoint`` structs: a bucket ends at each of its exact boundaries.

    Bucket k of scale s holds (base^k, base^(k+1)] with base = 2^(2^-s). Below the first comes one that ends where it
    begins, so that quantiles within the first are not sought between it and zero.
    """
    zero, threshold = _column(points, "zero_count"), _column(points, "zero_threshold")
    scale = _column(points, "scale").astype(np.int64)
    bad = (scale < _SCALES[0]) | (scale > _SCALES[1]) | ~(threshold >= 0)
    sides = []
    for name in ("negative", "positive"):
        side = points.field(name)
        counts, at = lists(side.field("bucket_counts"))
        sides.append((_filled(side, "offset"), counts.to_numpy(zero_copy_only=False), at))
        bad |= np.diff(at) > BUCKETS_LIMIT
    (first, below, below_at), (start, above, above_at) = sides
    negative = sums(below, below_at)
    middle = negative + zero.astype(np.uint64)
    good = np.flatnonzero(~bad)
    parts = [_bucket(good, threshold[good], middle[good])]
    for sign, offset, counts, offsets, base in (
        (-1.0, first, below, below_at, np.zeros(len(zero), np.uint64)),
        (1.0, start, above, above_at, middle),
    ):
        filled = good[np.diff(offsets)[good] > 0]
        at, kept = take_ranges(offsets, filled)
        point = filled[owners(kept)]
        index = offset[point] + at - offsets[point]
        total = running(counts, offsets)[at]
        edge = index + 1
        outer = offset[filled]
        if sign < 0:
            # Counted from the most negative: bucket k ends at -base^k, and what lies beyond it comes first.
            edge, total = index, negative[point] - total + counts[at]
            outer = offset[filled] + np.diff(offsets)[filled]
        for owner, edges, value in (
            (point, edge, base[point] + total),
            (filled, outer, base[filled]),
        ):
            bound = _boundaries(edges, scale[owner])
            told = np.isfinite(bound) & (bound > threshold[owner])
            parts.append(_bucket(owner[told], sign * bound[told], value[told]))
    return Rows.joined(*parts, *_totals(points, stale, bad)), bad


def summary(points: Any, stale: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.bool_]]:
    """Rows of ``SummaryDataPoint`` structs."""
    found, at = lists(points.field("quantile_values"))
    quantile, value = (found.field(name).to_numpy(zero_copy_only=False) for name in ("quantile", "value"))
    owner = owners(at)
    bad = np.diff(at) > BUCKETS_LIMIT
    bad[owner[np.isnan(quantile)]] = True
    told = ~bad[owner]
    own = Rows(owner[told], np.full(int(told.sum()), PLAIN, np.int8), quantile[told] + 0.0, value[told])
    return Rows.joined(own, *_totals(points, stale, bad, buckets=False)), bad


@functools.lru_cache(maxsize=65_536)
def bound_text(bound: float) -> str:
    """A bound as Prometheus writes it: ``0.005``, ``10``, ``+Inf``, ``1e+21``."""
    if math.isinf(bound):
        return "+Inf" if bound > 0 else "-Inf"
    if bound == 0:
        return "0"
    return np.format_float_positional(bound, trim="-") if 1e-6 <= abs(bound) < 1e21 else repr(bound)


def _totals(
    points: Any, stale: NDArray[np.bool_], bad: NDArray[np.bool_], *, buckets: bool = True
) -> list[Rows]:
    """The bucket that holds all, sum and count. A point that ends its series ends its sum, told or not."""
    good = np.flatnonzero(~bad)
    count = _column(points, "count").astype(np.float64)[good]
    summed = points.field("sum")
    told = summed.is_valid().to_numpy(zero_copy_only=False)
    with_sum = np.flatnonzero(~bad & (told | stale))
    values = _filled_array(summed)[with_sum]
    found = [_bucket(good, np.full(len(good), np.inf), count)] if buckets else []
    return [*found, _plain(with_sum, SUM, values), _plain(good, COUNT, count)]


def _bucket(point: I64, bound: NDArray[np.float64], value: NDArray[Any]) -> Rows:
    # Adding zero makes -0.0 the same label as 0.0.
    return Rows(point, np.full(len(point), BUCKET, np.int8), bound + 0.0, value.astype(np.float64))


def _plain(point: I64, suffix: int, value: NDArray[np.float64]) -> Rows:
    return Rows(point, np.full(len(point), suffix, np.int8), np.full(len(point), np.nan), value)


def _boundaries(index: I64, scale: I64) -> NDArray[np.float64]:
    """base^index for each; 0 or infinite where a double cannot hold it.

    Boundaries are labels, so every machine has to find the same digits: the C library's pow is asked for each
    distinct one, and not numpy's, which has several ways.
    """
    exponent = np.ldexp(index.astype(np.float64), -scale.astype(np.int32))
    distinct, inverse = np.unique(exponent, return_inverse=True)
    found = np.fromiter(map(_power_of_two, distinct.tolist()), np.float64, len(distinct))
    return found[inverse]


def _power_of_two(exponent: float) -> float:
    return 2.0**exponent if exponent < 1024 else math.inf


def _unordered(bounds: NDArray[np.float64], offsets: I64) -> NDArray[np.bool_]:
    """Whether a point's bounds fail to rise, or one of them is no number."""
    owner = owners(offsets)
    wrong = ~(bounds[1:] > bounds[:-1]) & (owner[1:] == owner[:-1])
    found = np.zeros(len(offsets) - 1, bool)
    found[owner[1:][wrong]] = True
    found[owner[np.isnan(bounds)]] = True
    return found


def _column(points: Any, name: str) -> NDArray[Any]:
    found: NDArray[Any] = points.field(name).to_numpy(zero_copy_only=False)
    return found


def _filled(points: Any, name: str) -> I64:
    found: I64 = _filled_array(points.field(name)).astype(np.int64)
    return found


def _filled_array(array: Any) -> NDArray[Any]:
    found: NDArray[Any] = pc.fill_null(array, pa.scalar(0, array.type)).to_numpy(zero_copy_only=False)
    return found
