"""Order statistics of many rows at once, with NaN below everything else, as Prometheus sorts."""

from __future__ import annotations

import numpy as np

from misstep.store.promql.labels import I64
from misstep.store.promql.matrix import F64


def row_quantiles(rows: F64, lengths: I64, q: F64) -> F64:
    """The quantile of each row.

    Args:
        rows: shape (n, width); a row's values come first, NaN fills it up.
        lengths: how many of a row are values, at least one.
        q: the quantile of each row; below 0 gives -Inf, above 1 +Inf.

    Returns:
        Shape (n,).
    """
    inside = np.arange(rows.shape[1]) < lengths[:, None]
    bad = np.isnan(rows) & inside
    nans = bad.sum(axis=1)
    # NaN sorts to the end: those that are values are put before all others, and known by their number.
    ordered = np.sort(np.where(bad, -np.inf, rows) if nans.any() else rows, axis=1)
    return picked(ordered, lengths, nans, q)


def picked(ordered: F64, lengths: I64, nans: I64, q: F64) -> F64:
    """The quantile of sorted rows whose first `nans` values stand for NaN."""
    rank = np.clip(q, 0, 1) * (lengths - 1)
    rank = np.where(np.isnan(rank), 0, rank)
    below = np.maximum(np.floor(rank).astype(np.int64), 0)
    above = np.minimum(below + 1, lengths - 1)
    weight = rank - below
    each = np.arange(len(ordered))
    low = np.where(below < nans, np.nan, ordered[each, below])
    high = np.where(above < nans, np.nan, ordered[each, above])
    with np.errstate(invalid="ignore"):
        found = low * (1 - weight) + high * weight
    return limited(found, q)


def limited(found: F64, q: F64) -> F64:
    """What quantiles outside of 0..1 and NaN are."""
    return np.where(np.isnan(q), np.nan, np.where(q < 0, -np.inf, np.where(q > 1, np.inf, found)))
