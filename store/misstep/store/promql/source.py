"""Where samples come from, behind one question; the store answers it, and so does memory in tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql.labels import I64, Labels
from misstep.store.promql.matrix import F64
from misstep.store.promql.patterns import matching
from misstep.store.promql.steps import Steps
from misstep.store.promql.syntax import Matcher

STALE = 0x7FF0000000000002
"""Bits of the NaN that says that a series has ended."""


class Selection(NamedTuple):
    """Samples of some series, sorted by row and time; no two of a row at the same time.

    Attributes:
        labels: one row a series.
        sizes: how many samples each series has.
        ts: Unix nanoseconds, flat.
        value: flat; the stale NaN included.
    """

    labels: Labels
    sizes: I64
    ts: I64
    value: F64


class Source(Protocol):
    """Answers for samples."""

    def select(self, matchers: Sequence[Matcher], start: int, end: int, limit: int) -> Selection:
        """Samples with start < ts <= end of the series that all matchers match.

        Raises:
            QueryError: there are more than `limit` of them.
        """
        ...


@runtime_checkable
class Quick(Source, Protocol):
    """One that has a shorter way to the newest samples."""

    def newest(
        self, matchers: Sequence[Matcher], ends: Steps, lookback: int, limit: int
    ) -> tuple[Labels, F64, I64]:
        """Values and times of the newest sample of each series at each step, (n, S).

        A time that is not later than ``end - lookback`` says that there is none.

        Raises:
            QueryError: there are more than `limit` samples.
        """
        ...


class Memory:
    """Samples that are held whole.

    Args:
        labels: one row a series.
        row: series of each sample; with `ts` and `value` sorted by row and time.
    """

    def __init__(self, labels: Labels, row: NDArray[np.int32], ts: I64, value: F64) -> None:
        self._labels, self._row, self._ts, self._values = labels, row, ts, value

    def select(self, matchers: Sequence[Matcher], start: int, end: int, limit: int) -> Selection:
        """See `Source`."""
        wanted = matching(self._labels, matchers)
        chosen = wanted[self._row] & (self._ts > start) & (self._ts <= end)
        sizes = np.bincount(self._row[chosen], minlength=len(wanted))[wanted]
        return Selection(self._labels.take(wanted), sizes, self._ts[chosen], self._values[chosen])
