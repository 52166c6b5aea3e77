"""Series that were sampled at the same times: what depends on times alone is then worked out once for all of them.

An agent stamps a reading once, so the series of a node carry the same times, as all buckets of a histogram do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql.labels import I64, Bool

_SHARED = 2
"""Series of a timeline, on average, from which on it is worth knowing."""
_AT_ONCE = 1 << 15
"""Samples that are compared at a time: they stay in the cache."""
_MIXED = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)


def distinct(ts: I64, begins: I64, sizes: I64) -> tuple[I64, I64]:
    """Which series carry exactly the same times: the timeline of each, and the first series of each timeline.

    Where hardly any do, each series has a timeline of its own, which has its number.

    Args:
        ts: flat times, one series after the other.
        begins: index of each one's first sample, shape (n,).
        sizes: how many samples each has, shape (n,).
    """
    everyone = np.arange(len(sizes))
    if len(sizes) < _SHARED or not len(ts):
        return everyone, everyone
    _, first, of = np.unique(_keys(ts, begins, sizes), return_index=True, return_inverse=True)
    if len(first) * _SHARED > len(sizes):
        return everyone, everyone
    odd = np.flatnonzero(~_same(ts, begins, sizes, first[of]))
    of[odd] = len(first) + np.arange(len(odd))
    first = np.concatenate([first, odd])
    return (of, first) if len(first) * _SHARED <= len(sizes) else (everyone, everyone)


def stretches(flat: NDArray[Any], size: int) -> NDArray[Any]:
    """All stretches of so many items of a flat array, by where they begin; some of them are copied without an index of each item."""
    shape = (len(flat) - size + 1, size)
    return np.ndarray(shape, flat.dtype, flat.data, strides=flat.strides * 2)


def _keys(ts: I64, begins: I64, sizes: I64) -> NDArray[np.uint64]:
    """A number of each series that is the same where times are: made of the first, a middle and the last one."""
    most = len(ts) - 1
    parts = [ts[np.minimum(begins + np.maximum(sizes - 1, 0) * part // 2, most)] for part in range(3)]
    mixed = np.stack([*parts, sizes]).view(np.uint64) * _MIXED[:, None]
    keys: NDArray[np.uint64] = np.where(sizes > 0, np.bitwise_xor.reduce(mixed, axis=0), np.uint64(0))
    return keys


def _same(ts: I64, begins: I64, sizes: I64, other: I64) -> Bool:
    """Whether the times of each series are those of another one."""
    found: Bool = sizes == sizes[other]
    order = np.flatnonzero(found)[np.argsort(sizes[found], kind="stable")]
    edges = np.flatnonzero(np.diff(sizes[order])) + 1
    for rows in np.split(order, edges):
        size = int(sizes[rows[0]])
        if not size:
            continue
        beginning = stretches(ts, size)
        most = max(_AT_ONCE // size, 1)
        for at in range(0, len(rows), most):
            some = rows[at : at + most]
            alike = beginning[begins[some]] == beginning[begins[other[some]]]
            found[some] = alike.all(axis=1)
    return found
