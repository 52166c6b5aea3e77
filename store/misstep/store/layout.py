"""The layout of a metric request: where its numbers stand, and which series they belong to.

Times and values of a NumberDataPoint are fixed64, double and sfixed64, those of a HistogramDataPoint fixed64 and
double: always eight bytes (opentelemetry/proto/metrics/v1/metrics.proto). As long as a sender reports the same
series, its next request differs from the last one in those bytes only. So comparing all other bytes proves a request
well formed and of the same series, and what is left is to gather numbers.

What a request means is still said by the general decoder alone: a layout is made of a *probe*, the request with a
number of our choice in each place, and of where the decoder then finds these numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.verdict import Verdict

_EIGHT = np.arange(8)
_TIME = 1 << 60
_REAL, _WHOLE, _TOTAL, _BUCKET = 0.25, 1 << 40, 1 << 50, 2
"""The first mark of each kind; marks go up by one, and no mark or sum of marks of one kind is a mark of another,
or the one that every sample of ``target_info`` is."""
_ONE = np.ones(1)


class Reading(NamedTuple):
    """The points of one request, in the order of the general decoder; each column of shape (n,)."""

    series: U64
    metric: NDArray[np.uint32]
    ts: I64
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ts)


class _Numbers:
    """Offsets of numbers of one kind, and the point that each belongs to."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.point: list[int] = []

    def add(self, at: int, point: int) -> None:
        self.at.append(at)
        self.point.append(point)

    @property
    def places(self) -> I64:
        """Offsets of their bytes, shape (n, 8)."""
        return np.array(self.at, np.int64).reshape(-1, 1) + _EIGHT


class _Points:
    """Offsets of the eight bytes of each number in a request, by what they hold."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.reals = _Numbers()
        self.wholes = _Numbers()
        self.totals = _Numbers()
        self.buckets = _Numbers()
        self.first_bucket: list[int] = []
        self.unread: list[int] = []


class Layout:
    """Made by `Layout.of`.

    Attributes:
        refreshed: when its series were last told to be alive, Unix nanoseconds; kept by the caller.
        verdict: on a request that it reads: every point is stored.
        size: bytes that it holds.
    """

    def __init__(self, body: bytes, points: _Points, answer: Reading) -> None:
        """Raises ValueError where the decoder's answer to the probe is not made of the request's own numbers."""
        self.series, self.metric = answer.series, answer.metric
        self.refreshed = 0
        self.verdict = Verdict(np.zeros(len(answer), np.uint8))
        self._time_at = np.array(points.times, np.int64)[:, None] + _EIGHT
        self._real_at, self._whole_at = points.reals.places, points.wholes.places
        self._total_at, self._bucket_at = points.totals.places, points.buckets.places
        self._since = np.array(points.first_bucket, np.int64)
        unread = np.array(points.unread, np.int64).reshape(-1, 1) + _EIGHT
        self._keep = np.full(len(body), 255, np.uint8)
        for places in (self._time_at, self._real_at, self._whole_at, self._total_at, self._bucket_at, unread):
            self._keep[places.ravel()] = 0
        self._rest = (np.frombuffer(body, np.uint8) & self._keep).tobytes()
        own = points.reals.point + points.wholes.point + points.totals.point + points.buckets.point
        self._find_rows(own, answer)
        self.size = 2 * len(body) + 80 * (len(own) + len(points.times)) + 12 * len(self.series)

    @classmethod
    def of(cls, body: bytes, decode: Callable[[bytes], Reading | None]) -> Layout | None:
        """The layout of a well-formed request; None where it has none.

        Args:
            body: a request that was accepted whole.
            decode: the general decoder; None where it rejects a point or finds more in a request than points.
        """
        points = _Points()
        try:
            for metric in _metrics(body):
                _walk(body, metric, points)
            probe = bytearray(body)
            _mark(probe, points)
            answer = decode(bytes(probe))
            return cls(body, points, answer) if answer is not None and points.times else None
        except (ValueError, IndexError, struct.error):
            return None

    def read(self, body: bytes) -> Reading | None:
        """The request's points, or None where it has another layout or a time that no Unix nanoseconds can be."""
        x = np.frombuffer(body, np.uint8)
        if len(x) != len(self._keep) or (x & self._keep).tobytes() != self._rest:
            return None
        ts = x.take(self._time_at).view("<i8").ravel()[self._row_time]
        if ts.min() < 0:
            return None
        return Reading(self.series, self.metric, ts, self._values(x))

    def _values(self, x: NDArray[np.uint8]) -> NDArray[np.float64]:
        reals = x.take(self._real_at).view("<f8").ravel()
        if self._simple:
            return reals
        totals = x.take(self._total_at).view("<u8").ravel().astype(np.float64)
        running = np.zeros(len(self._bucket_at) + 1, np.uint64)
        np.cumsum(x.take(self._bucket_at).view("<u8").ravel(), out=running[1:])
        buckets = (running[1:] - running[self._since]).astype(np.float64)
        wholes = x.take(self._whole_at).view("<i8").ravel().astype(np.float64)
        return np.concatenate([reals, wholes, totals, buckets, _ONE])[self._row_value]

    def _find_rows(self, own: list[int], answer: Reading) -> None:
        """For each row of the decoder: which of our numbers it is.

        Args:
            own: the point of each number, in the order of `_marks`.
        """
        known = {
            (_TIME + point, value): place
            for place, (point, value) in enumerate(zip(own, self._marks(), strict=True))
        }
        rows = zip(answer.ts.tolist(), answer.value.tolist(), strict=True)
        places = [len(own) if row[1] == 1.0 else known.get(row, -1) for row in rows]
        if min(places, default=-1) < 0:
            raise ValueError("a row is not made of a number of the request")
        self._row_value = np.array(places, np.int64)
        self._row_time = answer.ts - _TIME
        self._simple = places == list(range(len(self._real_at)))

    def _marks(self) -> list[float]:
        """The values to which `_mark`'s numbers lead: reals, wholes, totals, buckets."""
        running = np.zeros(len(self._bucket_at) + 1)
        np.cumsum(np.arange(len(self._bucket_at)) + _BUCKET, out=running[1:])
        counted = ((len(self._real_at), _REAL), (len(self._whole_at), _WHOLE), (len(self._total_at), _TOTAL))
        found = [float(first + i) for number, first in counted for i in range(number)]
        found += (running[1:] - running[self._since]).tolist()
        return found


def _mark(probe: bytearray, points: _Points) -> None:
    kinds: tuple[tuple[str, float, list[int]], ...] = (
        ("<Q", _TIME, points.times),
        ("<d", _REAL, points.reals.at),
        ("<q", _WHOLE, points.wholes.at),
        ("<Q", _TOTAL, points.totals.at),
        ("<Q", _BUCKET, points.buckets.at),
    )
    for kind, first, places in kinds:
        for number, at in enumerate(places):
            struct.pack_into(kind, probe, at, first + number)


# -- the walk: field numbers of opentelemetry/proto/metrics/v1/metrics.proto ------------------------------------------


def _metrics(body: bytes) -> Iterator[tuple[int, int]]:
    """Where each Metric stands: resource_metrics = 1, scope_metrics = 2, metrics = 2."""
    for _, _, start, end in _fields(body, 0, len(body), 1):
        for _, _, inner, inner_end in _fields(body, start, end, 2):
            for _, _, metric, metric_end in _fields(body, inner, inner_end, 2):
                yield metric, metric_end


def _walk(body: bytes, metric: tuple[int, int], points: _Points) -> None:
    """Gauge = 5, sum = 7, histogram = 9; data_points = 1 in each. Other kinds have no layout."""
    for field, wire, start, end in _fields(body, *metric):
        if wire == 2 and field in (5, 7):
            for _, _, point, point_end in _fields(body, start, end, 1):
                _number(body, point, point_end, points)
        elif wire == 2 and field == 9:
            for _, _, point, point_end in _fields(body, start, end, 1):
                _histogram(body, point, point_end, points)
        elif field in (10, 11):
            raise ValueError("exponential histograms and summaries have no layout")


def _number(body: bytes, start: int, end: int, points: _Points) -> None:
    """NumberDataPoint: start_time_unix_nano = 2, time_unix_nano = 3, as_double = 4, as_int = 6."""
    time = value = kind = 0
    for field, wire, at, _ in _fields(body, start, end):
        if wire == 1 and field == 2:
            points.unread.append(at)
        elif wire == 1 and field == 3:
            time = at
        elif wire == 1 and field in (4, 6):
            value, kind = at, field
    if not time or not value:
        raise ValueError("a point without time or value")
    (points.reals if kind == 4 else points.wholes).add(value, len(points.times))
    points.times.append(time)


def _histogram(body: bytes, start: int, end: int, points: _Points) -> None:
    """HistogramDataPoint: start 2, time_unix_nano 3, count 4, sum 5, bucket_counts 6 (packed), min 11, max 12."""
    time = total = 0
    point = len(points.times)
    buckets = range(0)
    for field, wire, at, until in _fields(body, start, end):
        if wire == 1 and field in (2, 11, 12):
            points.unread.append(at)
        elif wire == 1 and field == 3:
            time = at
        elif wire == 1 and field == 4:
            total = at
        elif wire == 1 and field == 5:
            points.reals.add(at, point)
        elif wire == 2 and field == 6:
            if len(buckets) or (until - at) % 8:
                raise ValueError("bucket counts in two parts")
            buckets = range(at, until, 8)
    if not time or not total:
        raise ValueError("a histogram without time or count")
    points.times.append(time)
    points.totals.add(total, point)
    points.first_bucket += [len(points.buckets.at)] * len(buckets)
    for at in buckets:
        points.buckets.add(at, point)


def _fields(body: bytes, at: int, end: int, only: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, start and end of the value; with `only` the messages of that field alone."""
    while at < end:
        key, at = varint(body, at)
        field, wire = key >> 3, key & 7
        if wire == 2:
            size, at = varint(body, at)
            start, at = at, at + size
        elif wire == 1:
            start, at = at, at + 8
        elif wire == 5:
            start, at = at, at + 4
        elif wire == 0:
            start = at
            _, at = varint(body, at)
        else:
            raise ValueError("a group")
        if at > end:
            raise ValueError("a field that is longer than its message")
        if not only or (field == only and wire == 2):
            yield field, wire, start, at


def varint(body: bytes, at: int) -> tuple[int, int]:
    """A base-128 integer and the offset behind it.

    Raises:
        IndexError: the bytes end within it.
    """
    number = shift = 0
    while True:
        byte = body[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
