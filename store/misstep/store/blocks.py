"""Samples of one metric in memory, laid out so that a question about some of its series costs no search through the rest.

A block's arrays are flat: the samples of a series lie together, in order of time, with free room behind them, into which
newer ones are put in place. What was handed out of a block stays as it was, because nobody reads the free room.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.promql.labels import I32, Bool
from misstep.store.promql.matrix import F64

NEVER = -(1 << 62)
"""The time of a sample that is not there."""
_ROOM = 4
"""Of so many samples of a series one more finds room before everything is laid out anew."""


class Block(NamedTuple):
    """All samples of a metric's n series with low < ts <= high that were received up to a position.

    Attributes:
        ids: of the series, sorted, shape (n,).
        begins: index of each one's first sample; shape (n + 1,), the last where the arrays end.
        counts: how many samples each has, shape (n,).
        ts: Unix nanoseconds, flat.
        values: flat.
        low: Unix nanoseconds, exclusive.
        high: inclusive.
        mark: the position.
    """

    ids: U64
    begins: I64
    counts: I64
    ts: I64
    values: F64
    low: int
    high: int
    mark: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(sum(array.nbytes for array in self[:5]))

    def places(self, ids: U64) -> tuple[I64, Bool]:
        """Which of its series these are, and whether they are any."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        place = np.searchsorted(self.ids, ids)
        np.minimum(place, len(self.ids) - 1, out=place)
        return place, self.ids[place] == ids

    def upto(self, places: I64, time: int) -> I64:
        """For some of its series the index behind the last sample that is not later than a time."""
        begin, low, high = self.begins[places], np.zeros(len(places), np.int64), self.counts[places]
        most = len(self.ts) - 1
        if most < 0:
            return begin
        # Most questions begin before all samples, or end behind them.
        if ((self.ts[np.minimum(begin, most)] > time) | (high == 0)).all():
            return begin
        if ((self.ts[np.maximum(begin + high - 1, 0)] <= time) | (high == 0)).all():
            return begin + high
        for _ in range(int(high.max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            below = (self.ts[np.minimum(begin + middle, most)] <= time) & (low < high)
            low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
        return begin + low

    def between(self, places: I64, start: int, end: int) -> tuple[I64, I64]:
        """For some of its series: index of the first sample after `start`, how many there are up to `end`."""
        first = self.upto(places, start)
        return first, np.maximum(self.upto(places, end) - first, 0)

    def grown(self, ids: U64, ts: I64, values: F64, mark: int, low: int) -> Block:
        """With samples that came after its mark, in the order in which they came.

        Args:
            ids: series of each sample.
            ts: their times; those that are not between `low` and `high` are left out.
            values: theirs.
            mark: the position up to which they came.
            low: where all is laid out anew, what is not later goes.
        """
        inside = (ts > self.low) & (ts <= self.high)
        if not inside.all():
            ids, ts, values = ids[inside], ts[inside], values[inside]
        if not len(ids):
            return self._replace(mark=mark)
        place, known = self.places(ids)
        if known.all():
            order = np.argsort(place, kind="stable")
            appended = self._appended(place[order], ts[order], values[order])
            if appended is not None:
                return self._replace(counts=appended, mark=mark)
        return self._anew(ids, ts, values, mark, low)

    def _appended(self, place: I64, ts: I64, values: F64) -> I64 | None:
        """Put sorted samples into the free room; the new counts, or None if that cannot be."""
        fresh = np.bincount(place, minlength=len(self.ids))
        counts = self.counts + fresh
        if (counts > np.diff(self.begins)).any():
            return None
        among = np.arange(len(place)) - np.repeat(np.cumsum(fresh) - fresh, fresh)
        index = self.begins[place] + self.counts[place] + among
        before = np.where(among > 0, np.concatenate([[NEVER], ts[:-1]]), self.ts[np.maximum(index - 1, 0)])
        before[(among == 0) & (self.counts[place] == 0)] = NEVER
        if not (ts > before).all():
            return None
        self.ts[index], self.values[index] = ts, values
        return counts

    def _anew(self, ids: U64, ts: I64, values: F64, mark: int, low: int) -> Block:
        index = ragged(self.begins[:-1], self.counts)
        everyone = np.unique(np.concatenate([self.ids, ids]))
        row = np.concatenate(
            [
                np.repeat(np.searchsorted(everyone, self.ids), self.counts),
                np.searchsorted(everyone, ids),
            ]
        )
        ts, values = np.concatenate([self.ts[index], ts]), np.concatenate([self.values[index], values])
        low = max(low, self.low)
        order = np.lexsort((ts, row))
        row, ts, values = row[order], ts[order], values[order]
        # Of two at the same time the one that came last counts.
        kept = np.append((row[1:] != row[:-1]) | (ts[1:] != ts[:-1]), True) & (ts > low)
        row, ts, values = row[kept], ts[kept], values[kept]
        return laid_out(everyone, row, ts, values, self._replace(mark=mark, low=low), room=True)


def laid_out(
    ids: U64, row: NDArray[np.integer], ts: I64, values: F64, like: Block, *, room: bool = False
) -> Block:
    """A block of samples that are sorted by row and time.

    Args:
        ids: of the series, sorted.
        row: series of each sample.
        ts: times.
        values: values.
        like: its `low`, `high` and `mark` are taken.
        room: leave some behind each series.
    """
    counts = np.bincount(row, minlength=len(ids)).astype(np.int64)
    sizes = counts + (counts // _ROOM + _ROOM) if room else counts
    begins = np.concatenate([[0], np.cumsum(sizes)])
    if room:
        index = ragged(begins[:-1], counts)
        flat_ts, flat_values = np.full(int(begins[-1]), NEVER), np.zeros(int(begins[-1]))
        flat_ts[index], flat_values[index] = ts, values
        ts, values = flat_ts, flat_values
    return like._replace(ids=ids, begins=begins, counts=counts, ts=ts, values=values)


def empty(low: int, high: int, mark: int) -> Block:
    """Without series."""
    nothing = np.zeros(0, np.int64)
    return Block(
        nothing.astype(np.uint64), np.zeros(1, np.int64), nothing, nothing, np.zeros(0), low, high, mark
    )


def ragged(begins: I64, counts: I64) -> I64:
    """The indexes of stretches one after the other."""
    total = int(counts.sum())
    if not total:
        return np.zeros(0, np.int64)
    index = np.arange(total, dtype=np.int64)
    ends = np.cumsum(counts)
    return index + np.repeat(begins - ends + counts, counts)


def rows_of(counts: I64) -> I32:
    """The row of each of so many samples a row."""
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)
