"""Whether a GPU ran with lowered clocks for most of the last seconds, by the driver's own counters of time.

A power cap is left out: at full load it is how these GPUs work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

WINDOW = 10_000_000_000
"""Nanoseconds over which the time is compared."""
MOST, LITTLE = 0.5, 0.1
"""Shares of the window from which a GPU counts as slowed, and below which it no longer does."""
REASONS = ("software_thermal", "hardware_thermal", "power_brake")


class Change(NamedTuple):
    """A GPU is slowed, or no longer is; `share` is that of the last window."""

    gpu: int
    reason: str
    slowed: bool
    share: float


class Throttle:
    """Follows the counters of one machine."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, str], tuple[int, float]] = {}
        self._slowed: set[tuple[int, str]] = set()

    def see(self, time: int, read: Iterator[tuple[int, str, float]]) -> list[Change]:
        """Take a reading.

        Args:
            time: Unix nanoseconds.
            read: GPU, reason, seconds throttled since the driver was loaded.
        """
        found: list[Change] = []
        for gpu, reason, value in read:
            key = (gpu, reason)
            since, before = self._before.get(key, (0, 0.0))
            if since and 0 <= time - since < WINDOW:
                continue
            self._before[key] = (time, value)
            if not since or value < before or time < since:
                continue  # the first reading, or the driver was loaded anew
            share = (value - before) * 1e9 / (time - since)
            if share >= MOST and key not in self._slowed:
                self._slowed.add(key)
                found.append(Change(gpu, reason, True, share))
            elif share < LITTLE and key in self._slowed:
                self._slowed.discard(key)
                found.append(Change(gpu, reason, False, share))
        return found
