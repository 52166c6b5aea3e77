"""Between journal and hot tables: when requests were received, and which rows are still on their way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from misstep.store.hot import Hot
from misstep.store.request import table_of
from misstep.store.segment import Row
from misstep.store.steady import SAMPLE_BYTES, Placed, samples_of

FLUSH_BYTES = 32 * 1024 * 1024
"""So many bytes of rows need not wait for more."""

BACKLOG_BYTES = 256 * 1024 * 1024
"""So many may wait for the hot tables before commits wait too."""


class Rows(NamedTuple):
    """What a group of requests brought, in order.

    Attributes:
        requests: themselves.
        tables: Arrow tables by the name of the table they go to.
        steady: what layouts read; made into a table only when it is inserted, together with what came after it.
    """

    requests: Sequence[Row]
    tables: dict[str, list[Any]]
    steady: Sequence[Placed]

    def size(self) -> int:
        """Bytes of memory, roughly."""
        made = sum(part.nbytes for parts in self.tables.values() for part in parts)
        read = SAMPLE_BYTES * sum(len(one.reading) for one in self.steady)
        return int(made) + read + sum(len(row.payload) for row in self.requests)


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
        self._rows: deque[Rows] = deque()
        self._bytes = 0
        self._asked = False
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

        Once it is, no earlier time is given out any more, whatever the clock does. If only rows on their way are
        missing, they come at once.
        """
        with self._change:
            if max(now, self._last + 1) < before:
                return False
            self._last = max(self._last, before - 1)
            done = not self._taken or self._taken[0] >= before
            if not done:
                self._hurry()
            return done

    def put(self, rows: Rows) -> None:
        """Rows that were committed, in order; the first request's time is what `take` gave."""
        first = rows.requests[0].received
        size = rows.size()
        with self._change:
            if not self._taken or self._taken[-1] < first:
                self._taken.append(first)
            idle = not self._rows
            self._rows.append(rows)
            self._bytes += size
            if idle or self._bytes >= FLUSH_BYTES:
                self._change.notify_all()

    def wait(self, linger: float) -> bool:
        """Wait for rows, and a little for more unless they are asked for; False when no more will come."""
        with self._change:
            self._change.wait_for(lambda: self._rows or self._finished)
            self._change.wait_for(lambda: self._finished or self._asked or self._bytes >= FLUSH_BYTES, linger)
            return bool(self._rows)

    def flush(self, hot: Hot) -> None:
        """Insert all rows that are there."""
        with self._change:
            ready = list(self._rows)
            self._asked = False
        if not ready:
            return
        hot.insert(_tables(ready))
        with self._change:
            for rows in ready:
                self._rows.popleft()
                self._taken.popleft()
                self._bytes -= rows.size()
            self._change.notify_all()

    def make_room(self) -> None:
        """Wait until few enough rows are on their way."""
        with self._change:
            self._change.wait_for(lambda: self._finished or self._bytes < BACKLOG_BYTES)

    def drained(self, received: int) -> None:
        """Wait until all rows received up to a time are in the hot tables."""
        with self._change:
            self._hurry()
            self._change.wait_for(lambda: not self._rows or self._rows[0].requests[0].received > received)

    def finish(self) -> None:
        """No more rows will come."""
        with self._change:
            self._finished = True
            self._change.notify_all()

    def _hurry(self) -> None:
        if not self._asked and self._rows:
            self._asked = True
            self._change.notify_all()


def _tables(groups: Sequence[Rows]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"requests": [table_of([row for rows in groups for row in rows.requests])]}
    for rows in groups:
        for name, parts in rows.tables.items():
            found.setdefault(name, []).extend(parts)
    steady = [one for rows in groups for one in rows.steady]
    if steady:
        found.setdefault("samples", []).append(samples_of(steady))
    return found
