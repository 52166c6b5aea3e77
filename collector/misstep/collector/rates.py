"""How many requests each tenant may send: a bucket that fills by the second."""

from __future__ import annotations

import time
from collections.abc import Callable

from misstep.collector.refusal import Refusal

BURST_SECONDS = 10.0
"""A tenant that was silent may send so many seconds' worth at once: agents catch up after a gap."""

_TENANTS_LIMIT = 10_000


class Rates:
    """Buckets of all tenants: of a token, or of a local user.

    Args:
        per_second: requests; 0 for any number.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._clock = clock
        self._buckets: dict[bytes, tuple[float, float]] = {}

    def take(self, tenant: bytes) -> None:
        """Count one request.

        Raises:
            Refusal: 429 with the seconds after which there is room again.
        """
        if not self._rate:
            return
        now = self._clock()
        size = max(1.0, self._rate * BURST_SECONDS)
        left, then = self._buckets.pop(tenant, (size, now))
        left = min(size, left + (now - then) * self._rate)
        taken = left >= 1
        # At the end again: the first of the dictionary has been silent longest.
        self._buckets[tenant] = (left - 1 if taken else left, now)
        if len(self._buckets) > _TENANTS_LIMIT:
            del self._buckets[next(iter(self._buckets))]
        if not taken:
            wait = int((1 - left) / self._rate) + 1
            raise Refusal(
                429,
                "rate",
                f"more than {self._rate:g} requests a second, which collector.requests_per_second allows; "
                "send larger batches",
                retry_after=wait,
            )
