"""What was decided about the items of one request when it came, as the journal keeps it.

A replay applies the verdict and never today's limits. Encoding: a version byte, then for version 1
``<I items>``, ``<B n>`` and n times ``<BI reason, count>`` for what never became an item, then the zlib-compressed
reason of each item, one byte each (0 is accepted). Version 2 stands alone: the payload cannot be decoded.
An empty verdict accepts everything.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

REASONS = (
    "accepted",
    "unsupported_type",
    "delta_temporality",
    "no_value",
    "time_out_of_range",
    "labels_per_series",
    "label_length",
    "series_per_request",
    "series_limit",
    "duplicate_event",
    "undecodable",
    "unspecified_temporality",
    "bucket_shape",
    "span_ids",
    "no_name",
    "native_histogram",
    "tenant_series",
)
"""Why an item is not stored, by its code; codes are never given another meaning."""

MEANINGS = {
    "unsupported_type": "histograms and summaries were not stored yet",
    "delta_temporality": "sums had to be cumulative",
    "no_value": "points without a value",
    "time_out_of_range": "time beyond the year 2262",
    "labels_per_series": "more labels than collector.labels_per_series allows",
    "label_length": "a label longer than collector.label_length allows",
    "series_per_request": "more new series in one request than collector.series_per_request allows",
    "series_limit": "more series than collector.series_limit allows",
    "undecodable": "the payload could not be decoded and was put aside",
    "unspecified_temporality": "sums and histograms must say whether they are cumulative or delta",
    "bucket_shape": "buckets that do not fit their bounds, bounds that do not rise, or too many buckets",
    "span_ids": "a trace id that is not 16 bytes or a span id that is not 8, or one of zeros",
    "tenant_series": "more series of this sender than collector.series_per_tenant allows",
    "no_name": "series without a name",
    "native_histogram": "native histograms of remote write are not stored",
}

CODE = {reason: code for code, reason in enumerate(REASONS)}
DUPLICATE = CODE["duplicate_event"]

UNDECODABLE = b"\x02"
_ITEMS = b"\x01"


@dataclass
class Verdict:
    """The decision on one request.

    Attributes:
        codes: a code per item, shape (items,).
        extra: how many things were rejected that never became an item, by code.
        undecodable: the whole payload was put aside.
    """

    codes: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    extra: dict[int, int] = field(default_factory=dict)
    undecodable: bool = False

    def to_bytes(self) -> bytes:
        """As the journal keeps it."""
        if self.undecodable:
            return UNDECODABLE
        if not self.codes.any() and not self.extra:
            return b""
        head = struct.pack("<IB", len(self.codes), len(self.extra))
        pairs = b"".join(struct.pack("<BI", code, n) for code, n in sorted(self.extra.items()))
        return _ITEMS + head + pairs + zlib.compress(self.codes.tobytes(), 1)

    @classmethod
    def from_bytes(cls, data: bytes, items: int) -> Verdict:
        """Read a journal's verdict for a payload that decoded to so many items.

        Raises:
            ValueError: it is not one, or it speaks of another number of items.
        """
        if not data:
            return cls(np.zeros(items, np.uint8))
        if data[:1] == UNDECODABLE:
            return cls(undecodable=True)
        try:
            count, extras = struct.unpack_from("<IB", data, 1)
            pairs = [struct.unpack_from("<BI", data, 6 + 5 * i) for i in range(extras)]
            codes = np.frombuffer(zlib.decompress(data[6 + 5 * extras :]), np.uint8)
        except (struct.error, zlib.error) as error:
            raise ValueError(f"not a verdict: {error}") from error
        unsupported = CODE["unsupported_type"]
        if count < items and count + dict(pairs).get(unsupported, 0) == items:
            # Of the time when histograms and summaries, which stand behind the rest, were counted only.
            codes = np.concatenate([codes, np.full(items - count, unsupported, np.uint8)])
            return cls(codes, {code: number for code, number in pairs if code != unsupported})
        if data[:1] != _ITEMS or count != items or len(codes) != items:
            raise ValueError(f"a verdict on {count} items for a payload of {items}")
        return cls(codes, dict(pairs))

    @staticmethod
    def is_undecodable(data: bytes) -> bool:
        """Whether these are the bytes of a verdict by which the payload is not even looked at."""
        return data[:1] == UNDECODABLE

    def counts(self) -> dict[str, int]:
        """How many were not stored, by reason."""
        if self.undecodable:
            return {"undecodable": 1}
        if not self.extra and not self.codes.any():
            return {}
        found: dict[int, int] = dict(self.extra)
        codes, numbers = np.unique(self.codes[self.codes > 0], return_counts=True)
        for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
            found[code] = found.get(code, 0) + number
        return {REASONS[code]: number for code, number in sorted(found.items())}

    def exhausted(self) -> bool:
        """Whether nothing of it was stored because its sender has all the series that it may have."""
        return len(self.codes) > 0 and bool((self.codes == CODE["tenant_series"]).all())

    def rejected(self) -> int:
        """How many the sender should know to be lost; copies of what we have are not."""
        return sum(n for reason, n in self.counts().items() if reason != "duplicate_event")

    def warning(self) -> str:
        """One line for the sender; empty if nothing was lost."""
        parts = [f"{n} ({MEANINGS[r]})" for r, n in self.counts().items() if r in MEANINGS]
        return "not stored: " + ", ".join(parts) if parts else ""


def split(codes: NDArray[np.uint8], request: NDArray[Any], requests: int) -> list[NDArray[np.uint8]]:
    """Codes of a batch's items, ordered by request, as one array per request."""
    bounds = np.searchsorted(request, np.arange(requests + 1))
    return [codes[bounds[i] : bounds[i + 1]] for i in range(requests)]
