"""From blocks to what PromQL evaluates: the samples of some series, or the newest of each at each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from misstep.store.blocks import NEVER, Block, ragged
from misstep.store.columns import I64
from misstep.store.promql.errors import too_many
from misstep.store.promql.matrix import F64
from misstep.store.promql.steps import Steps
from misstep.store.promql.timelines import stretches
from misstep.store.recent import Part

_AT_ONCE = 1 << 15
"""Samples that are copied at a time: their indexes stay in the cache."""


def samples(parts: Sequence[Part], start: int, end: int, limit: int) -> tuple[I64, I64, F64]:
    """How many samples with start < ts <= end each series has; their times and values, by series and time.

    Raises:
        QueryError: there are more than `limit`.
    """
    found = [_between(part, start, end) for part in parts]
    nothing = np.zeros(0, np.int64)
    sizes = np.concatenate([nothing, *(own for _, own in found)])
    total = int(sizes.sum())
    if total > limit:
        raise too_many()
    ts, value = np.empty(total, np.int64), np.empty(total)
    at = 0
    for part, (first, own) in zip(parts, found, strict=True):
        some = slice(at, at + int(own.sum()))
        _copy(part.block, first, own, ts[some], value[some])
        at = some.stop
    return sizes, ts, value


def _copy(block: Block, first: I64, sizes: I64, ts: I64, value: F64) -> None:
    """Samples of some series one after the other: where some in a row have as many each, without an index of each sample."""
    ends = np.cumsum(sizes)
    most = max(_AT_ONCE * len(sizes) // max(len(ts), 1), 1)
    at = 0
    for begin in range(0, len(sizes), most):
        rows = slice(begin, begin + most)
        own, to = sizes[rows], slice(at, int(ends[rows][-1]))
        size = int(own[0])
        if size and (own == size).all():
            ts[to].reshape(-1, size)[...] = stretches(block.ts, size)[first[rows]]
            value[to].reshape(-1, size)[...] = stretches(block.values, size)[first[rows]]
        elif to.stop > to.start:
            index = ragged(first[rows], own)
            # With mode="raise" numpy would copy once more; no index is outside.
            np.take(block.ts, index, out=ts[to], mode="clip")
            np.take(block.values, index, out=value[to], mode="clip")
        at = to.stop


def newest(parts: Sequence[Part], rows: int, steps: Steps, lookback: int, limit: int) -> tuple[F64, I64]:
    """Value and time of the newest sample of each series at each step, (rows, S); where there is none, its time is `NEVER`.

    Raises:
        QueryError: there are more than `limit` samples.
    """
    if steps.number > 1 and not steps.step:
        once = newest(parts, rows, steps._replace(number=1), lookback, limit)
        return tuple(np.broadcast_to(array, (rows, steps.number)) for array in once)  # type: ignore[return-value]
    if rows * steps.number > limit:
        raise too_many()
    shape = (rows, steps.number)
    values, times = np.empty(shape), np.empty(shape, np.int64)
    total = 0
    for part in parts:
        first, sizes = _between(part, steps.start - lookback, steps.end)
        total += int(sizes.sum())
        if total > limit:
            raise too_many()
        _newest(part.block, first, sizes, steps, values[part.chosen], times[part.chosen])
    return values, times


def _between(part: Part, start: int, end: int) -> tuple[I64, I64]:
    first, sizes = part.block.between(part.places, start, end)
    if not part.there.all():
        sizes[~part.there] = 0
    return first, sizes


def _newest(block: Block, first: I64, sizes: I64, steps: Steps, values: F64, times: I64) -> None:
    if not sizes.any():
        times[...] = NEVER
        return
    single = steps.number == 1
    behind = sizes[:, None] if single else _counted(block.ts[ragged(first, sizes)], sizes, steps)
    place = behind + (first - 1)[:, None]
    nothing = behind == 0
    np.take(block.ts, place, out=times, mode="clip")
    np.take(block.values, place, out=values, mode="clip")
    if nothing.any():
        times[nothing] = NEVER


def _counted(ts: I64, sizes: I64, steps: Steps) -> I64:
    """How many samples of each row are not later than each step, shape (n, S); none is later than the last."""
    shape = (len(sizes), steps.number)
    cell = ts
    cell -= steps.start - steps.step + 1
    cell //= steps.step
    np.maximum(cell, 0, out=cell)
    cell += np.repeat(np.arange(shape[0], dtype=np.int64) * shape[1], sizes)
    return np.cumsum(np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape), axis=1)
