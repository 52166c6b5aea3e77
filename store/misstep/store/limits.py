"""What one sender or all together may bring, decided when a request comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from misstep.core.clock import SECOND
from misstep.store.columns import U64, RecentIds
from misstep.store.metrics import Metrics
from misstep.store.remote_write import RemoteWrite
from misstep.store.verdict import CODE

Samples = Metrics | RemoteWrite
"""What is made of metrics, whatever they came as."""

LIVE = 3600 * SECOND
"""A series without a sample for this long no longer counts against the limit (it may count for twice as long)."""

EVENTS_REMEMBERED = 2_000_000
"""Event ids by which copies are known. Ray sends a copy within minutes."""


@dataclass(frozen=True)
class Limits:
    """Limits of the store; the collector's settings of the same names fill them."""

    series: int = 1_000_000
    """Live series."""
    series_per_tenant: int = 0
    """Live series of one token, or of one local user without one; 0 for any number."""
    series_per_request: int = 50_000
    """New series that one request may bring."""
    labels_per_series: int = 40
    """Labels of one series, name excluded."""
    label_length: int = 4096
    """Bytes of one label value."""


class LiveSeries:
    """The series that had a sample of late."""

    def __init__(self) -> None:
        self._ids = RecentIds(1 << 62)
        self._rotated = 0

    def __len__(self) -> int:
        return len(self._ids)

    def contains(self, ids: U64) -> NDArray[np.bool_]:
        """Mask of those that are live."""
        return self._ids.contains(ids)

    def add(self, ids: U64, received: int) -> None:
        """These had a sample at `received`."""
        if received - self._rotated > LIVE:
            self._ids.rotate()
            self._rotated = received
        self._ids.add(ids)


def judge_metrics(metrics: Samples, live: LiveSeries, limits: Limits) -> NDArray[np.uint8]:
    """A code for each point, shape (points,); series over a limit are the last ones in order of appearance."""
    codes = metrics.codes.copy()
    own = codes == 0
    codes[own & (metrics.labels_per_point() > limits.labels_per_series)] = CODE["labels_per_series"]
    codes[(codes == 0) & (metrics.longest_label() > limits.label_length)] = CODE["label_length"]
    at = np.flatnonzero(codes[metrics.point] == 0)
    ids, first, inverse = np.unique(metrics.series[at], return_index=True, return_inverse=True)
    new = np.flatnonzero(~live.contains(ids))
    if not len(new):
        return codes
    new = new[np.argsort(first[new], kind="stable")]
    of_series = np.zeros(len(ids), np.uint8)
    request = metrics.request[metrics.point[at[first[new]]]]
    rank = np.arange(len(new)) - np.searchsorted(request, request)
    over = rank >= limits.series_per_request
    of_series[new[over]] = CODE["series_per_request"]
    within = new[~over]
    of_series[within[max(0, limits.series - len(live)) :]] = CODE["series_limit"]
    # A histogram is stored whole or not at all.
    np.maximum.at(codes, metrics.point[at], of_series[inverse])
    return codes
