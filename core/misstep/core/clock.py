"""Time as a value that tests can set. All times are integer Unix nanoseconds, UTC."""

from __future__ import annotations

import time
from typing import Protocol

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class Clock(Protocol):
    """What the rooms ask the time of."""

    def now(self) -> int:
        """Unix time in nanoseconds; it may jump."""
        ...

    def monotonic(self) -> int:
        """Nanoseconds since an arbitrary start; it never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Unix time in nanoseconds."""
        return time.time_ns()

    def monotonic(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


class SettableClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: int = 1_700_000_000 * SECOND) -> None:
        self._now = now
        self._monotonic = 0

    def now(self) -> int:
        """The set time, Unix nanoseconds."""
        return self._now

    def monotonic(self) -> int:
        """Nanoseconds by which the clock was moved forward in all."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Move forward instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        step = round(seconds * SECOND)
        self._now += step
        self._monotonic += step

    def jump(self, seconds: float) -> None:
        """Set the wall clock off by `seconds`, as NTP or an administrator would; monotonic time stays."""
        self._now += round(seconds * SECOND)
