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

from misstep.store.promql.labels import I64, Bool, Labels
from misstep.store.promql.matrix import F64, Vector
from misstep.store.promql.steps import Steps

ALL = slice(None)
_CACHED = 1 << 14
"""Windows of which functions make several arrays at a time."""
BLOCK = 2_000_000
"""Samples that are gathered at a time where windows are laid out one after the other."""


class Windows:
    """The windows of n series at S steps.

    Attributes:
        labels: of the n series; `nameless` as in `Vector`.
        ts: flat times, nanoseconds.
        values: flat values.
        lo: shape (n, S), index of the first sample of a window.
        hi: shape (n, S), index behind its last.
        ends: where the windows end.
        length: how long they are.
    """

    def __init__(
        self,
        labels: Labels,
        nameless: Bool | bool,
        row: NDArray[np.int32],
        ts: I64,
        values: F64,
        ends: Steps,
        length: int,
    ) -> None:
        self.labels, self.nameless = labels, nameless
        self.ts, self.values = ts, values
        self.row = row
        self.ends, self.length = ends, length
        sizes = np.bincount(row, minlength=labels.size)
        self.begins: I64 = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.lo, self.hi = self._bounds()

    @functools.cached_property
    def counts(self) -> I64:
        """Samples in each window, shape (n, S)."""
        return self.hi - self.lo

    @functools.cached_property
    def longest(self) -> int:
        """The most samples in a window."""
        return int(self.counts.max()) if self.counts.size else 0

    def first(self, array: NDArray[Any], rows: slice = ALL) -> NDArray[Any]:
        """What a flat array holds for the first sample of each window; anything where there is none."""
        return self._at(array, self.lo[rows])

    def last(self, array: NDArray[Any], rows: slice = ALL, *, back: int = 0) -> NDArray[Any]:
        """The same for the last sample, or one so many before it."""
        return self._at(array, self.hi[rows] - (1 + back))

    def row_blocks(self) -> Iterator[slice]:
        """Some series at a time: what is made of their windows stays in the cache."""
        most = max(_CACHED // max(self.ends.number, 1), 1)
        for begin in range(0, self.labels.size, most):
            yield slice(begin, begin + most)

    def _at(self, array: NDArray[Any], index: I64) -> NDArray[Any]:
        if not len(array):
            return np.zeros(index.shape, array.dtype)
        return np.take(array, index, mode="clip")

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
            shape = (self.labels.size, ends.number)
            lo, hi = self._upto(one.shifted(-length)), self._upto(one)
            return np.broadcast_to(lo, shape), np.broadcast_to(hi, shape)
        behind, rest = divmod(length, ends.step)
        if rest == 0 and behind <= 4 * ends.number:
            both = self._upto(Steps(ends.start - length, ends.step, ends.number + behind))
            return both[:, : ends.number], both[:, behind:]
        return self._upto(ends.shifted(-length)), self._upto(ends)

    def _upto(self, ends: Steps) -> I64:
        """The index behind the last sample that is not later than each end, shape (n, count)."""
        width = ends.number + 1
        cell = (self.ts - ends.start + ends.step - 1) // ends.step
        np.clip(cell, 0, ends.number, out=cell)
        cell += self.row.astype(np.int64) * width
        found = np.bincount(cell, minlength=self.labels.size * width).reshape(self.labels.size, width)
        return np.cumsum(found[:, : ends.number], axis=1) + self.begins[:, None]


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
