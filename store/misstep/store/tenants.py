"""How many live series each tenant may have: a token, or a local user without one.

Told when a request comes and kept in its verdict; it is not known whose a series was after a restart, so counting
begins anew then, with what is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import U64
from misstep.store.limits import LiveSeries, Samples
from misstep.store.verdict import CODE

_TENANTS_LIMIT = 1000


class Tenants:
    """One thread at a time.

    Args:
        limit: live series of one tenant; 0 for any number, and then nothing is remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._series: dict[str, LiveSeries] = {}

    def judge(
        self, samples: Samples, codes: NDArray[np.uint8], tenants: Sequence[str], now: int
    ) -> NDArray[np.uint8]:
        """Codes of points, shape (points,), with those of tenants that are over the limit.

        Args:
            samples: of requests of one signal.
            codes: what was decided before.
            tenants: of each request; an empty one has no limit.
            now: Unix nanoseconds.
        """
        if not self._limit:
            return codes
        codes = codes.copy()
        of_sample = samples.request[samples.point]
        for index, tenant in enumerate(tenants):
            if tenant:
                own = np.arange(*np.searchsorted(of_sample, (index, index + 1)))
                self._judge(samples, codes, own[codes[samples.point[own]] == 0], tenant, now)
        return codes

    def refresh(self, tenant: str, series: U64, now: int) -> None:
        """These series of a request that was read the short way are alive."""
        if self._limit and tenant:
            self._of(tenant).add(np.unique(series), now)

    def _judge(
        self, samples: Samples, codes: NDArray[np.uint8], own: NDArray[np.int64], tenant: str, now: int
    ) -> None:
        known = self._of(tenant)
        ids, first, inverse = np.unique(samples.series[own], return_index=True, return_inverse=True)
        new = np.flatnonzero(~known.contains(ids))
        new = new[np.argsort(first[new], kind="stable")]
        over = np.zeros(len(ids), bool)
        over[new[max(0, self._limit - len(known)) :]] = True
        codes[samples.point[own[over[inverse]]]] = CODE["tenant_series"]
        known.add(ids[~over], now)

    def _of(self, tenant: str) -> LiveSeries:
        found = self._series.pop(tenant, None) or LiveSeries()
        self._series[tenant] = found
        if len(self._series) > _TENANTS_LIMIT:
            del self._series[next(iter(self._series))]
        return found
