"""The layout of a metric request: where its numbers stand, and which series they belong to.

Times and values of a NumberDataPoint are fixed64, double and sfixed64, those of a HistogramDataPoint fixed64 and
double: always eight bytes (opentelemetry/proto/metrics/v1/metrics.proto). As long as a sender reports the same
series, its next request differs from the last one in those bytes only. So comparing all other bytes proves a request
well formed and of the same series, and what is left is to gather numbers.

What a request means is still said by the general decoder alone: a layout is made of a *probe*, the request with a
number of our choice in each place, and of where the decoder then finds these numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.verdict import Verdict
from misstep.store.walk import Numbers, Points, walk

_EIGHT = np.arange(8)
_TIME = 1 << 60
_REAL, _WHOLE, _TOTAL, _BUCKET = 0.25, 1 << 40, 1 << 50, 2
"""The first mark of each kind; marks go up by one, and no mark or sum of marks of one kind is a mark of another,
or the one that every sample of ``target_info`` is."""


class Reading(NamedTuple):
    """The points of one request, in the order of the general decoder; each column of shape (n,)."""

    series: U64
    metric: NDArray[np.uint32]
    ts: I64
    value: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ts)

    def only(self, kept: NDArray[Any]) -> Reading:
        """Those under a mask, or at an index."""
        return Reading(self.series[kept], self.metric[kept], self.ts[kept], self.value[kept])


Decode = Callable[[list[bytes]], list[Reading | None]]


class Layout:
    """Made by `Layout.of`.

    Attributes:
        series: of each row, shape (n,).
        metric: of each row, shape (n,).
        keep: which bits of a body have to be those of `rest`, shape (bytes,).
        rest: the bytes that every such request has, zero where numbers are.
        words: offsets of its numbers: times, reals, wholes, totals and buckets one after the other, ascending in each.
        ends: how many words there are up to the end of each of these five kinds.
        since: for each bucket the place of the first of its histogram.
        row_time: which word is the time of each row, shape (n,).
        row_value: which word behind the times is its value; one more than there are where that is always 1.
        refreshed: when its series were last told to be alive, Unix nanoseconds; kept by the caller.
        verdict: on a request that it reads: every point is stored.
        size: bytes that it holds.
    """

    def __init__(
        self,
        rows: tuple[U64, NDArray[np.uint32], I64, I64],
        bytes_: tuple[NDArray[np.uint8], bytes],
        words: I64,
        ends: list[int],
        since: I64,
    ) -> None:
        self.series, self.metric, self.row_time, self.row_value = rows
        self.keep, self.rest = bytes_
        self.words, self.ends, self.since = words, ends, since
        self.refreshed = 0
        self.verdict = Verdict(np.zeros(len(self.series), np.uint8))
        self.size = 2 * len(self.rest) + 8 * len(words) + 29 * len(self.series) + 1000

    @classmethod
    def of(cls, bodies: Sequence[bytes], decode: Decode) -> list[Layout | None]:
        """The layouts of well-formed requests; None for one that has none.

        Args:
            bodies: requests that were accepted whole.
            decode: the general decoder; None for a request where it rejects a point or finds more than points.
        """
        try:
            found = walk(bodies)
        except (ValueError, IndexError):
            return [one for body in bodies for one in cls.of([body], decode)] if len(bodies) > 1 else [None]
        able = [
            (place, points) for place, points in enumerate(found) if points is not None and len(points.times)
        ]
        answers = decode([_probe(bodies[place], points) for place, points in able]) if able else []
        layouts: list[Layout | None] = [None] * len(bodies)
        for (place, points), answer in zip(able, answers, strict=True):
            if answer is not None:
                with contextlib.suppress(ValueError):
                    layouts[place] = _made(bodies[place], points, answer)
        return layouts

    def read(self, body: bytes) -> Reading | None:
        """The request's points, or None where it has another layout or a time that no Unix nanoseconds can be."""
        x = np.frombuffer(body, np.uint8)
        if len(x) != len(self.keep) or (x & self.keep).tobytes() != self.rest:
            return None
        # Numbers stand at any offset: eight bytes from each byte on are one element of this view.
        words = np.ndarray((len(x) - 7,), "<i8", body, 0, (1,))[self.words]
        ts = words[self.row_time]
        if ts.min() < 0:
            return None
        return Reading(self.series, self.metric, ts, self._numbers(words)[self.row_value])

    def refresh(self, now: int) -> None:
        """Its series were told to be alive."""
        self.refreshed = now

    def _numbers(self, words: I64) -> NDArray[np.float64]:
        """All numbers, and behind them the one that each sample of ``target_info`` is."""
        times, reals, wholes, totals, buckets = self.ends
        found = np.empty(buckets - times + 1)
        found[-1] = 1.0
        found[: reals - times] = words[times:reals].view("<f8")
        if reals == buckets:
            return found
        unsigned = words.view("<u8")
        found[reals - times : wholes - times] = words[reals:wholes]
        found[wholes - times : totals - times] = unsigned[wholes:totals]
        running = np.zeros(buckets - totals + 1, np.uint64)
        np.cumsum(unsigned[totals:buckets], out=running[1:])
        found[totals - times : -1] = running[1:] - running[self.since]
        return found


def _made(body: bytes, points: Points, answer: Reading) -> Layout:
    """Raises ValueError where the decoder's answer to the probe is not made of the request's own numbers."""
    own = [points.times, *(numbers.at for numbers in points.numbers)]
    words = np.concatenate(own)
    keep = np.full(len(body), 255, np.uint8)
    for places in (words, points.unread):
        keep[_bytes_at(places).ravel()] = 0
    return Layout(
        (answer.series, answer.metric, answer.ts - _TIME, _values(points, answer)),
        (keep, (np.frombuffer(body, np.uint8) & keep).tobytes()),
        words,
        np.cumsum([len(places) for places in own]).tolist(),
        _since(points.buckets),
    )


def _values(points: Points, answer: Reading) -> I64:
    """For each row of the decoder: which of our numbers it is."""
    own = np.concatenate([numbers.point for numbers in points.numbers])
    # Point and value as one number that can be sorted; both are exact in a float.
    known = own + 1j * _marks(points)
    rows = (answer.ts - _TIME) + 1j * answer.value
    order = np.argsort(known)
    places: I64 = order[np.minimum(np.searchsorted(known[order], rows), len(order) - 1)]
    one = answer.value == 1.0
    if not (one | (known[places] == rows)).all():
        raise ValueError("a row is not made of a number of the request")
    places[one] = len(own)
    return places


def _bytes_at(places: I64) -> I64:
    """Offsets of the bytes of numbers, shape (n, 8)."""
    return places.reshape(-1, 1) + _EIGHT


def _since(buckets: Numbers) -> I64:
    """For each bucket the place of the first of its histogram."""
    return np.searchsorted(buckets.point, buckets.point)


def _marks(points: Points) -> NDArray[np.float64]:
    """The values to which the numbers of a probe lead: reals, wholes, totals, buckets."""
    running = np.zeros(len(points.buckets.at) + 1)
    np.cumsum(np.arange(len(points.buckets.at)) + _BUCKET, out=running[1:])
    return np.concatenate(
        [
            _REAL + np.arange(len(points.reals.at)),
            _WHOLE + np.arange(len(points.wholes.at)),
            _TOTAL + np.arange(len(points.totals.at)),
            running[1:] - running[_since(points.buckets)],
        ]
    )


def _probe(body: bytes, points: Points) -> bytes:
    """The request with numbers of our choice."""
    probe = np.frombuffer(body, np.uint8).copy()
    kinds: tuple[tuple[str, float, I64], ...] = (
        ("<i8", _TIME, points.times),
        ("<f8", _REAL, points.reals.at),
        ("<i8", _WHOLE, points.wholes.at),
        ("<i8", _TOTAL, points.totals.at),
        ("<i8", _BUCKET, points.buckets.at),
    )
    for kind, first, places in kinds:
        marks = (np.arange(len(places)) + np.dtype(kind).type(first)).astype(kind)
        probe[_bytes_at(places)] = marks.view(np.uint8).reshape(-1, 8)
    return probe.tobytes()
