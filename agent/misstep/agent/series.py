"""Metric points as protobuf bytes: series are encoded once, and each tick patches times and values in place.

What a probe reports each second differs from the last second in fixed-width numbers only, so a sheet keeps the
encoded bytes and the offsets of its numbers (27 µs for 320 points where an SDK takes 7,700). The collector's
layout cache relies on the same.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from misstep.agent.otlp import Value, attribute, framed, utf8, varint
from misstep.core import names

_POINT = struct.Struct("<BQBQBd")  # start_time_unix_nano = 2, time_unix_nano = 3, as_double = 4
_PATCH = struct.Struct("<QBd").pack_into
_START, _TIME, _VALUE = 0x11, 0x19, 0x21
_CUMULATIVE = b"\x10\x02\x18\x01"  # Sum.aggregation_temporality = 2, is_monotonic = 3


class Series:
    """One series: its metric and attributes. Keep the object and hand it in again each tick.

    Args:
        name: of the metric.
        kind: ``gauge`` or ``sum`` (cumulative, monotonic).
        unit: UCUM; may be empty.
        attributes: of the point.
        start: for a sum, Unix nanoseconds since when it counts; 0 where that is unknown.
    """

    __slots__ = ("kind", "metric", "name", "tail")

    def __init__(
        self, name: str, kind: str, unit: str, attributes: Mapping[str, Value], start: int = 0
    ) -> None:
        if kind not in ("gauge", "sum"):
            raise ValueError(f"a series is a gauge or a sum, not {kind!r}")
        self.name = name
        self.kind = kind
        head = framed(0x0A, utf8(name))
        self.metric = head + framed(0x1A, utf8(unit)) if unit else head
        self.tail = _POINT.pack(_START, start, _TIME, 0, _VALUE, 0.0) + b"".join(
            [attribute(0x3A, key, value) for key, value in attributes.items()]
        )


def declared(name: str, attributes: Mapping[str, Value] | None = None, start: int = 0) -> Series:
    """A series of a metric from `misstep.core.names`.

    Raises:
        KeyError: nobody declared that metric.
    """
    metric = names.metric(name)
    return Series(name, metric.kind, metric.unit, attributes or {}, start)


class Sheet:
    """Encodes the points of one probe, tick after tick."""

    def __init__(self) -> None:
        self._series: list[Series] = []
        self._bytes = bytearray()
        self._slots: list[int] = []
        self._order: list[int] = []

    def encode(self, now: int, series: Sequence[Series], values: Sequence[float]) -> bytes:
        """Points as framed ScopeMetrics.metrics, grouped by metric.

        Args:
            now: time of every point, Unix nanoseconds.
            series: shape (n,); when it equals the last call's, only numbers are written.
            values: shape (n,).
        """
        if self._series != series:
            self._layout(list(series))
        held = self._bytes
        for slot, place in zip(self._slots, self._order, strict=True):
            _PATCH(held, slot, now, _VALUE, values[place])
        return bytes(held)

    def _layout(self, series: list[Series]) -> None:
        groups: dict[tuple[bytes, str], list[int]] = {}
        for place, one in enumerate(series):
            groups.setdefault((one.metric, one.kind), []).append(place)
        self._series = series
        self._slots, self._order = [], []
        out = bytearray()
        for (head, kind), places in groups.items():
            points = bytearray()
            starts: list[int] = []
            for place in places:
                tail = series[place].tail
                points += b"\x0a" + varint(len(tail))
                starts.append(len(points) + 10)  # past the start time and the tag of the time
                points += tail
            if kind == "sum":
                points += _CUMULATIVE
            data = (b"\x2a" if kind == "gauge" else b"\x3a") + varint(len(points))
            out += b"\x12" + varint(len(head) + len(data) + len(points)) + head + data
            self._slots += [len(out) + start for start in starts]
            self._order += places
            out += points
        self._bytes = out
