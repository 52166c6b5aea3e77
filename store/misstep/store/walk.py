"""Where the numbers of metric requests stand: a walk over protobuf, through all points of all requests at once.

Field numbers are those of opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, owners, take_ranges

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KNOWN = np.isin(np.arange(8), (_VARINT, _FIXED64, _BYTES, _FIXED32))
_VARINT_BITS = 70
_LENGTH_BYTES = 5


class Numbers(NamedTuple):
    """Offsets of numbers of one kind and the point that each belongs to, ascending; shape (n,) each."""

    at: I64
    point: I64


class Points(NamedTuple):
    """Where eight bytes each of one request's points stand, by what they hold; points in the order of the request.

    Attributes:
        times: one of each point.
        numbers: reals, wholes, totals and buckets.
        unread: what nothing is made of.
    """

    times: I64
    numbers: list[Numbers]
    unread: I64

    @property
    def reals(self) -> Numbers:
        """Values of gauges and sums, and sums of histograms."""
        return self.numbers[0]

    @property
    def wholes(self) -> Numbers:
        """Values that are integers."""
        return self.numbers[1]

    @property
    def totals(self) -> Numbers:
        """Counts of histograms."""
        return self.numbers[2]

    @property
    def buckets(self) -> Numbers:
        """Counts of buckets."""
        return self.numbers[3]


class _Messages(NamedTuple):
    start: I64
    end: I64

    @classmethod
    def of(cls, spans: list[tuple[int, int]]) -> _Messages:
        return cls(*np.array(spans, np.int64).reshape(-1, 2).T)


class _Fields(NamedTuple):
    """Fields of many messages in the order of the bytes; `start` and `end` of the value."""

    owner: I64
    number: I64
    wire: I64
    start: I64
    end: I64

    def only(self, keep: NDArray[np.bool_]) -> _Fields:
        return _Fields(*(column[keep] for column in self))

    def fixed(self, *numbers: int) -> _Fields:
        """Eight-byte fields of these numbers."""
        return self.only((self.wire == _FIXED64) & self.among(numbers))

    def among(self, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """Mask of the fields of these numbers."""
        found: NDArray[np.bool_] = self.number == numbers[0]
        for number in numbers[1:]:
            found |= self.number == number
        return found


def walk(bodies: Sequence[bytes]) -> list[Points | None]:
    """The numbers of each request; None for one that has points of other kinds, or incomplete ones.

    Raises:
        ValueError, IndexError: one of them is damaged or has groups; which one is not known.
    """
    whole = b"".join(bodies)
    data = np.frombuffer(whole, np.uint8)
    ends = list(itertools.accumulate(map(len, bodies)))
    requests = [(end - len(body), end) for body, end in zip(bodies, ends, strict=True)]
    metrics = _inner(whole, _inner(whole, _inner(whole, requests, 1), 2), 2)
    plain = _inner(whole, _inner(whole, metrics, 5, 7), 1)
    histograms = _inner(whole, _inner(whole, metrics, 9), 1)
    own = _joined(_plain(data, _Messages.of(plain)), _histograms(data, _Messages.of(histograms)))
    unknown = [start for start, _ in _inner(whole, metrics, 10, 11)]
    wrong = np.searchsorted(ends, np.concatenate([np.array(unknown, np.int64), own.wrong]), side="right")
    return [None if place in wrong else own.within(*span) for place, span in enumerate(requests)]


def _inner(body: bytes, messages: list[tuple[int, int]], *numbers: int) -> list[tuple[int, int]]:
    """Start and end of the messages under these field numbers in messages, one after the other."""
    return [
        (start, stop)
        for at, end in messages
        for key, start, stop in fields(body, at, end)
        if key & 7 == _BYTES and key >> 3 in numbers
    ]


def fields(body: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Key (number and wire type) of each field of a message, and where its value starts and ends.

    Raises:
        ValueError: a field is a group, or longer than the message.
        IndexError: the bytes end within a key or a length.
    """
    while at < end:
        key, start = varint(body, at)
        wire = key & 7
        if wire == _BYTES:
            size, behind = varint(body, start)
            if behind - start > _LENGTH_BYTES:
                raise ValueError("a length of too many bytes")
            start, at = behind, behind + size
        elif wire == _VARINT:
            _, at = varint(body, start)
        elif wire in (_FIXED64, _FIXED32):
            at = start + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError("a group")
        if at > end:
            raise ValueError("a field that is longer than its message")
        yield key, start, at


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


def digits(number: int) -> bytes:
    """The bytes of a base-128 integer that is not negative."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def framed(number: int, message: bytes) -> bytes:
    """A field of this number that holds a message."""
    return digits(number << 3 | _BYTES) + digits(len(message)) + message


class _Found(NamedTuple):
    """What `Points` has, of several requests; `message` is where each point begins, `wrong` where those do that cannot be read."""

    message: I64
    points: Points
    wrong: I64

    def within(self, start: int, end: int) -> Points:
        """What lies between two offsets, counted from the first."""
        low, high = np.searchsorted(self.message, (start, end))
        points = self.points

        def numbers(some: Numbers) -> Numbers:
            first, last = np.searchsorted(some.point, (low, high))
            return Numbers(some.at[first:last] - start, some.point[first:last] - low)

        unread = points.unread[(points.unread >= start) & (points.unread < end)]
        return Points(
            points.times[low:high] - start, [numbers(some) for some in points.numbers], unread - start
        )


def _plain(data: NDArray[np.uint8], points: _Messages) -> _Found:
    """NumberDataPoint: start_time_unix_nano = 2, time_unix_nano = 3, as_double = 4, as_int = 6."""
    fields = _fields(data, points)
    times = _last(fields.fixed(3), len(points.start))
    told = fields.fixed(4, 6)
    values = _last(told, len(points.start))
    whole = np.zeros(len(points.start), np.bool_)
    whole[told.owner] = told.number == 6
    numbers = [Numbers(values[mask], np.flatnonzero(mask)) for mask in (~whole, whole)]
    none = Numbers(values[:0], values[:0])
    wrong = points.start[(times == 0) | (values == 0)]
    return _Found(points.start, Points(times, [*numbers, none, none], fields.fixed(2).start), wrong)


def _histograms(data: NDArray[np.uint8], points: _Messages) -> _Found:
    """HistogramDataPoint: start 2, time_unix_nano 3, count 4, sum 5, bucket_counts 6 (packed), min 11, max 12."""
    fields = _fields(data, points)
    times, totals, sums = (_last(fields.fixed(number), len(points.start)) for number in (3, 4, 5))
    packed = fields.only((fields.number == 6) & (fields.wire == _BYTES))
    size = packed.end - packed.start
    again = np.bincount(packed.owner, minlength=len(points.start)) > 1
    again[packed.owner[size % 8 != 0]] = True
    offsets = np.concatenate([[0], np.cumsum(size // 8)])
    bucket, _ = take_ranges(offsets, np.arange(len(size)))
    at = np.repeat(packed.start - 8 * offsets[:-1], size // 8) + 8 * bucket
    everyone = np.arange(len(points.start))
    numbers = [
        Numbers(sums[sums > 0], everyone[sums > 0]),
        Numbers(at[:0], at[:0]),
        Numbers(totals, everyone),
        Numbers(at, packed.owner[owners(offsets)]),
    ]
    wrong = points.start[(times == 0) | (totals == 0) | again]
    return _Found(points.start, Points(times, numbers, fields.fixed(2, 11, 12).start), wrong)


def _joined(one: _Found, other: _Found) -> _Found:
    """Both, points in the order of the bytes."""
    message = np.concatenate([one.message, other.message])
    order = np.argsort(message)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    shift = len(one.message)

    def numbers(first: Numbers, second: Numbers) -> Numbers:
        point = place[np.concatenate([first.point, second.point + shift])]
        ordered = np.argsort(point, kind="stable")
        return Numbers(np.concatenate([first.at, second.at])[ordered], point[ordered])

    pairs = zip(one.points.numbers, other.points.numbers, strict=True)
    points = Points(
        np.concatenate([one.points.times, other.points.times])[order],
        [numbers(first, second) for first, second in pairs],
        np.concatenate([one.points.unread, other.points.unread]),
    )
    return _Found(message[order], points, np.concatenate([one.wrong, other.wrong]))


def _last(fields: _Fields, count: int) -> I64:
    """The offset of the last of these fields in each of so many messages; 0 where there is none."""
    found = np.zeros(count, np.int64)
    found[fields.owner] = fields.start
    return found


def _fields(data: NDArray[np.uint8], messages: _Messages) -> _Fields:
    """All fields of all messages: a loop over the first field of each, the second of each, and so on."""
    found = []
    live = np.flatnonzero(messages.start < messages.end)
    at = messages.start[live]
    while len(live):
        key, at = _varints(data, at)
        wire = key & 7
        start, end = _value(data, at, wire)
        found.append((live, key >> 3, wire, start, end))
        limit = messages.end[live]
        if (end > limit).any():
            raise ValueError("a field that is longer than its message")
        more = end < limit
        live, at = live[more], end[more]
    empty = np.zeros(0, np.int64)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)] if found else [empty] * 5
    order = np.argsort(columns[3], kind="stable")
    return _Fields(*(column[order] for column in columns))


def _value(data: NDArray[np.uint8], at: I64, wire: I64) -> tuple[I64, I64]:
    """Start and end of the values behind the keys."""
    if not _KNOWN[wire].all():
        raise ValueError("a group")
    start = at.copy()
    end = at + np.where(wire == _FIXED64, 8, 4)
    counted = np.flatnonzero((wire == _BYTES) | (wire == _VARINT))
    number, behind = _varints(data, at[counted])
    end[counted] = behind
    if (number < 0).any():
        raise ValueError("a length of more than 63 bits")
    sized = wire[counted] == _BYTES
    start[counted[sized]] = behind[sized]
    end[counted[sized]] += number[sized]
    return start, end


def _varints(data: NDArray[np.uint8], at: I64) -> tuple[I64, I64]:
    """Base-128 integers and the offsets behind them; digits beyond 63 bits are lost."""
    byte = data[at].astype(np.int64)
    number, behind = byte & 127, at + 1
    more = np.flatnonzero(byte > 127)
    shift = 7
    while len(more):
        if shift >= _VARINT_BITS:
            raise ValueError("a varint of more than ten bytes")
        byte = data[behind[more]].astype(np.int64)
        number[more] |= (byte & 127) << min(shift, 63)
        behind[more] += 1
        more = more[byte > 127]
        shift += 7
    return number, behind
