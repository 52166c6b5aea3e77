"""Range vectors: for each series and step the stretch of its samples that lies in the window.

Samples are flat arrays, sorted by series and time; a window is a pair of indexes into them, ``lo`` and ``hi``
(exclusive). Windows are open on the left, as in Prometheus 3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql import timelines
from misstep.store.promql.labels import I64, Bool, Labels
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.steps import Steps

ALL = slice(None)
Rows = slice | I64
_CACHED = 1 << 14
"""Windows of which functions make several arrays at a time."""
BLOCK = 2_000_000
"""Samples that are gathered at a time where windows are laid out one after the other."""


class Windows:
    """The windows of n series at S steps.

    Bounds depend on times alone, so they are worked out for each of T timelines, as offsets within a series.

    Attributes:
        labels: of the n series; `nameless` as in `Vector`.
        sizes: samples of each series, shape (n,).
        begins: index of each one's first sample, shape (n,).
        ts: flat times, nanoseconds.
        values: flat values.
        ends: where the windows end.
        length: how long they are.
        timeline: of each series, shape (n,); its own number where no two series share one.
        since: offset of the first sample of a window, shape (T, S).
        upto: offset behind its last.
    """

    def __init__(
        self,
        labels: Labels,
        nameless: Bool | bool,
        sizes: I64,
        ts: I64,
        values: F64,
        ends: Steps,
        length: int,
    ) -> None:
        self.labels, self.nameless = labels, nameless
        self.sizes, self.ts, self.values = sizes, ts, values
        self.ends, self.length = ends, length
        self.begins: I64 = np.cumsum(sizes) - sizes
        self.timeline, self._leaders = timelines.distinct(ts, self.begins, sizes)
        self.since, self.upto = self._bounds()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, S)."""
        return self.labels.size, self.ends.number

    @functools.cached_property
    def row(self) -> I64:
        """The series of each sample, flat."""
        return np.repeat(np.arange(self.labels.size), self.sizes)

    @functools.cached_property
    def lo(self) -> I64:
        """Index of the first sample of each window, shape (n, S)."""
        return self._index(self.since, ALL)

    @functools.cached_property
    def hi(self) -> I64:
        """Index behind the last one."""
        return self._index(self.upto, ALL)

    @functools.cached_property
    def counts(self) -> I64:
        """Samples in each window, shape (n, S)."""
        return self.each(self.upto - self.since)

    def each(self, table: NDArray[Any]) -> NDArray[Any]:
        """What a table of timelines says of each series."""
        return table[self.timeline] if self.shared else table

    @property
    def shared(self) -> bool:
        """Whether series share timelines."""
        return len(self._leaders) < self.labels.size

    @functools.cached_property
    def longest(self) -> int:
        """The most samples in a window."""
        return int(self.counts.max()) if self.counts.size else 0

    def first(self, array: NDArray[Any], rows: Rows = ALL) -> NDArray[Any]:
        """What a flat array holds for the first sample of each window; anything where there is none."""
        return _at(array, self._index(self.since, rows))

    def last(self, array: NDArray[Any], rows: Rows = ALL, *, back: int = 0) -> NDArray[Any]:
        """The same for the last sample, or one so many before it."""
        index = self._index(self.upto, rows)
        index -= 1 + back
        return _at(array, index)

    def edges(self, of: slice = ALL) -> tuple[I64, I64]:
        """Times of the first and of the last sample of the windows of timelines, shape (T, S) both."""
        begins = self.begins[self._leaders[of]][:, None]
        return _at(self.ts, self.since[of] + begins), _at(self.ts, self.upto[of] + (begins - 1))

    def row_blocks(self) -> Iterator[slice]:
        """Some series at a time: what is made of their windows stays in the cache."""
        most = max(_CACHED // max(self.ends.number, 1), 1)
        for begin in range(0, self.labels.size, most):
            yield slice(begin, begin + most)

    def _index(self, offsets: I64, rows: Rows) -> I64:
        chosen = offsets[self.timeline[rows] if self.shared else rows]
        return chosen + self.begins[rows][:, None]

    def vector(self, values: F64, present: Bool, *, nameless: bool = True) -> Vector:
        """What a function made of the windows."""
        return Vector(self.labels, values, present, True if nameless else self.nameless).compact()

    def blocks(self, at_least: int = 1) -> Iterator[tuple[NDArray[np.intp], I64, I64]]:
        """Windows of at least so many samples, some at a time: cells (flat indexes), their `lo`, their lengths."""
        counts = self.counts.ravel()
        cells = np.flatnonzero(counts >= at_least)
        lo = self.lo.ravel()
        size = max(BLOCK // max(self.longest, 1), 1)
        for begin in range(0, len(cells), size):
            some = cells[begin : begin + size]
            yield some, lo[some], counts[some]

    def _bounds(self) -> tuple[I64, I64]:
        ends, length = self.ends, self.length
        if not ends.step or ends.number == 1:
            one = ends._replace(number=1, step=max(ends.step, 1))
            shape = (len(self._leaders), ends.number)
            lo, hi = self._upto(one.shifted(-length)), self._upto(one)
            return np.broadcast_to(lo, shape), np.broadcast_to(hi, shape)
        behind, rest = divmod(length, ends.step)
        if rest == 0 and behind <= 4 * ends.number:
            both = self._upto(Steps(ends.start - length, ends.step, ends.number + behind))
            return both[:, : ends.number], both[:, behind:]
        return self._upto(ends.shifted(-length)), self._upto(ends)

    def _upto(self, ends: Steps) -> I64:
        """The offset behind the last sample that is not later than each end, shape (T, count)."""
        width, number, sizes = ends.number + 1, len(self._leaders), self.sizes[self._leaders]
        ts = self.ts[ragged(self.begins[self._leaders], sizes)[0]] if self.shared else self.ts
        cell = (ts - ends.start + ends.step - 1) // ends.step
        np.clip(cell, 0, ends.number, out=cell)
        cell += np.repeat(np.arange(number) * width, sizes)
        found = np.bincount(cell, minlength=number * width).reshape(number, width)
        return np.cumsum(found[:, : ends.number], axis=1)


def _at(array: NDArray[Any], index: I64) -> NDArray[Any]:
    if not len(array):
        return np.zeros(index.shape, array.dtype)
    return np.take(array, index, mode="clip")


def ragged(lo: I64, lengths: I64) -> tuple[I64, I64]:
    """The indexes of windows one after the other, and where each window begins among them."""
    begins = np.cumsum(lengths) - lengths
    index = np.arange(int(lengths.sum()), dtype=np.int64)
    index += np.repeat(lo - begins, lengths)
    return index, begins


def padded(lo: I64, lengths: I64, flat: F64) -> F64:
    """Windows as rows, filled up with NaN at the end; shape (windows, longest)."""
    width = int(lengths.max()) if len(lengths) else 0
    index = lo[:, None] + np.arange(width)
    inside = np.arange(width) < lengths[:, None]
    return np.where(inside, flat[np.minimum(index, len(flat) - 1)], np.nan)
