"""Sums that keep what large neighbours would swallow, as Prometheus' do: compensated, what is lost in each step exactly.

`add` is one step of it, for as many sums at once as the arrays hold.
"""

from __future__ import annotations

import numpy as np

from misstep.store.promql.labels import I64
from misstep.store.promql.matrix import F64

LOOP_MOST = 512
"""Samples of a window up to which they are added one by one, all windows at once; more go by extended precision."""


def add(total: F64, lost: F64, value: F64) -> None:
    """Add `value` to `total` in place, and what rounding took away to `lost`."""
    fresh, away = _both(total, value)
    lost += away
    total[...] = fresh


def settled(total: F64, lost: F64) -> F64:
    """The sum. An infinite total has nothing to be corrected."""
    return np.where(np.isfinite(total), total + np.where(np.isfinite(lost), lost, 0.0), total)


def down(matrix: F64) -> F64:
    """Sum over axis 0, in halves: log2(n) steps, each for whole blocks of rows."""
    total, lost = matrix, None
    while len(total) > 1:
        half = len(total) // 2
        fresh, away = _both(total[:half], total[half : 2 * half])
        kept = away if lost is None else lost[:half] + lost[half : 2 * half] + away
        if len(total) % 2:
            kept[0] += 0.0 if lost is None else lost[-1]
            add(fresh[0], kept[0], total[-1])
        total, lost = fresh, kept
    return settled(total[0], np.zeros(()) if lost is None else lost[0])


def _both(one: F64, other: F64) -> tuple[F64, F64]:
    """The sum of two, and what rounding took away."""
    fresh = one + other
    part = fresh - one
    away = fresh - part
    np.subtract(one, away, out=away)
    np.subtract(other, part, out=part)
    away += part
    return fresh, away


def stretches(values: F64, begins: I64, lengths: I64) -> F64:
    """Sums of stretches of a flat array, each of at least one value."""
    if not len(begins):
        return np.zeros(0)
    if int(lengths.max()) > LOOP_MOST:
        # reduceat sums up to the next begin: what lies between two stretches is cut off by a stop of its own.
        edges = np.stack([begins, np.minimum(begins + lengths, len(values))], axis=1).ravel()
        padded = np.concatenate([values, [0.0]]).astype(np.longdouble)
        return np.add.reduceat(padded, edges)[::2].astype(np.float64)
    total, lost = values[begins], np.zeros(len(begins))
    same = bool((lengths == lengths[0]).all())
    for place in range(1, int(lengths.max())):
        if same:
            add(total, lost, values[begins + place])
            continue
        longer = np.flatnonzero(lengths > place)
        part, rest = total[longer], lost[longer]
        add(part, rest, values[begins[longer] + place])
        total[longer], lost[longer] = part, rest
    return settled(total, lost)
