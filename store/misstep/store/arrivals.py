"""Between journal and hot tables: when requests were received, and which rows are still on their way."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, NamedTuple

from misstep.store.hot import Hot

ON_THE_WAY = 64
"""Groups that may wait for the hot tables before commits wait too."""


class _Rows(NamedTuple):
    first: int
    last: int
    tables: dict[str, list[Any]]


class Arrivals:
    """Gives out times of receipt and knows which of them are complete. Safe for any thread."""

    def __init__(self, received: int) -> None:
        """Start.

        Args:
            received: last time that was given out.
        """
        self._change = threading.Condition()
        self._last = received
        self._taken: deque[int] = deque()
        self._rows: deque[_Rows] = deque()
        self._finished = False

    def take(self, now: int, count: int) -> int:
        """Times of receipt for so many requests: the first of a run of consecutive nanoseconds.

        A clock that goes back does not turn the order round: times go on from the last one.
        """
        with self._change:
            first = max(now, self._last + 1)
            self._last = first + count - 1
            self._taken.append(first)
            return first

    def forget(self, first: int) -> None:
        """The requests with these times were not stored."""
        with self._change:
            self._taken.remove(first)
            self._change.notify_all()

    def complete(self, before: int, now: int) -> bool:
        """Whether all received before a time is in the hot tables and nothing earlier can still come.

        Once it is, no earlier time is given out any more, whatever the clock does.
        """
        with self._change:
            if max(now, self._last + 1) < before:
                return False
            self._last = max(self._last, before - 1)
            return not self._taken or self._taken[0] >= before

    def put(self, first: int, last: int, tables: dict[str, list[Any]]) -> None:
        """Rows that were committed, in order; `first` is what `take` gave."""
        with self._change:
            if not self._taken or self._taken[-1] < first:
                self._taken.append(first)
            self._rows.append(_Rows(first, last, tables))
            self._change.notify_all()

    def wait(self, linger: float) -> bool:
        """Wait for rows, and a little for more; False when there are none and no more will come."""
        with self._change:
            self._change.wait_for(lambda: self._rows or self._finished)
            if not self._finished:
                self._change.wait_for(lambda: self._finished or len(self._rows) >= ON_THE_WAY, linger)
            return bool(self._rows)

    def flush(self, hot: Hot) -> None:
        """Insert all rows that are there."""
        with self._change:
            ready = list(self._rows)
        if not ready:
            return
        merged: dict[str, list[Any]] = {}
        for rows in ready:
            for name, parts in rows.tables.items():
                merged.setdefault(name, []).extend(parts)
        hot.insert(merged)
        with self._change:
            for _ in ready:
                self._rows.popleft()
                self._taken.popleft()
            self._change.notify_all()

    def make_room(self) -> None:
        """Wait until few enough rows are on their way."""
        with self._change:
            self._change.wait_for(lambda: self._finished or len(self._rows) < ON_THE_WAY)

    def drained(self, received: int) -> None:
        """Wait until all rows received up to a time are in the hot tables."""
        with self._change:
            self._change.wait_for(lambda: not self._rows or self._rows[0].first > received)

    def finish(self) -> None:
        """No more rows will come."""
        with self._change:
            self._finished = True
            self._change.notify_all()
