"""Layouts put together of pieces: senders that leave out a metric, or tell them in another order, are read as well.

A piece is one ``Metric`` message of one resource and scope: where its numbers stand, and which series they belong to.
What a metric means depends on nothing else in its request, so a request all of whose metrics are known has a layout
without being decoded. Field numbers are those of opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.layout import Layout
from misstep.store.walk import fields

_RESOURCE, _SCOPE, _METRIC, _NAME = 0x0A, 0x12, 0x12, 0x0A
"""Keys of ``resource_metrics``, ``scope_metrics``, ``metrics`` and ``name``: number and wire type in one byte."""
_FAMILIES = {5: 0, 7: 1, 9: 2}
"""The fields of a metric that hold points, in the order in which the decoder tells their points."""
_KINDS = 5
"""Of words, see `Layout.ends`; as the kind of a value this is one that is always 1."""

_Span = tuple[int, int]
_Key = tuple[int, bytes]
"""Length and name of a metric."""


class Section(NamedTuple):
    """The metrics of one scope in a request.

    Attributes:
        context: what the resource and the scope say besides them.
        resource: which of the request's resources it is.
        metrics: where each begins and ends.
    """

    context: tuple[bytes, bytes]
    resource: int
    metrics: list[_Span]


class Rows(NamedTuple):
    """Rows of a piece; shape (n,) each.

    Attributes:
        series: of each.
        metric: of each.
        time: which of the piece's times it has.
        kind: of its value: reals, wholes, totals and buckets are 1 to 4.
        place: which of the piece's numbers of that kind it is.
    """

    series: U64
    metric: NDArray[np.uint32]
    time: I64
    kind: I64
    place: I64


class Piece:
    """Made by `pieces`.

    Attributes:
        family: in which of the decoder's turns its points are told.
        rows: without ``target_info``.
        target: series and metric of that, if its resource has one.
        words: offsets in the metric of its numbers, by kind.
        counts: how many these are.
        since: as in `Layout`.
        keep: as in `Layout`.
        rest: as in `Layout`.
        refreshed: as in `Layout`.
        size: bytes that it holds.
    """

    def __init__(
        self,
        family: int,
        rows: Rows,
        target: tuple[int, int] | None,
        words: list[I64],
        since: I64,
        bytes_: tuple[bytes, bytes],
    ) -> None:
        self.family, self.rows, self.target = family, rows, target
        self.words, self.since = words, since
        self.counts = [len(some) for some in words]
        self.keep, self.rest = bytes_
        self.refreshed = 0
        self._first: Rows | None = None
        self.size = 2 * len(self.keep) + 16 * sum(self.counts) + 72 * len(rows.time)

    @property
    def first(self) -> Rows:
        """Its rows where it is the first of its resource, whose first point brings ``target_info``."""
        if self.target is None or not len(self.rows.time):
            return self.rows
        if self._first is None:
            behind = int(np.argmax(np.append(self.rows.time != self.rows.time[0], True)))
            told = (*self.target, self.rows.time[0], _KINDS, 0)
            own: list[NDArray[Any]] = list(self.rows)
            columns: list[Any] = [np.insert(c, behind, one) for c, one in zip(own, told, strict=True)]
            self._first = Rows(*columns)
        return self._first


class Placed(NamedTuple):
    """A piece in a request: where it begins, and in which resource."""

    piece: Piece
    start: int
    resource: int


class Joined(Layout):
    """A layout that was put together.

    Args:
        placed: in the order of the bytes.
        size: of the request.
    """

    def __init__(self, placed: Sequence[Placed], size: int) -> None:
        counts = np.array([one.piece.counts for one in placed])
        total = counts.sum(0)
        ends = np.cumsum(total)
        before = np.cumsum(counts, 0) - counts
        first = np.column_stack([before + ends - total, np.full(len(placed), ends[-1])])
        super().__init__(
            _rows(placed, first, int(total[0])),
            _bytes(placed, size),
            _words(placed, counts),
            ends.tolist(),
            _since(placed, before[:, -1]),
        )
        self._pieces = [one.piece for one in placed]
        self.refreshed = min(piece.refreshed for piece in self._pieces)

    def refresh(self, now: int) -> None:
        """Its series were told to be alive."""
        super().refresh(now)
        for piece in self._pieces:
            piece.refreshed = now


class Pieces:
    """The pieces of many senders, in bounded memory. One thread at a time.

    Args:
        limit: bytes; the contexts that were learned longest ago go first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[tuple[bytes, bytes], dict[_Key, Piece]] = {}
        self.size = 0

    def layout(self, body: bytes) -> Joined | None:
        """The layout of a request; None if not every metric in it is known."""
        if not self._known:
            return None
        try:
            placed = [
                Placed(self._known[context][_key(body, span)], span[0], resource)
                for context, resource, metrics in sections(body)
                for span in metrics
            ]
        except (ValueError, LookupError):
            return None
        if not any(one.piece.counts[0] for one in placed):
            return None
        return Joined(placed, len(body))

    def learn(self, body: bytes, layout: Layout) -> None:
        """Cut the layout of a request into pieces."""
        try:
            found = pieces(body, layout)
        except (ValueError, LookupError):
            return
        for context, key, piece in found:
            shelf = self._known.setdefault(context, {})
            old = shelf.get(key)
            self.size += piece.size - (old.size if old else 0)
            shelf[key] = piece
        while self.size > self._limit:
            oldest = self._known.pop(next(iter(self._known)))
            self.size -= sum(piece.size for piece in oldest.values())


def sections(body: bytes) -> list[Section]:
    """The scopes of a request.

    Raises:
        ValueError, IndexError: it is damaged, or something in it stands with no metric.
    """
    found = []
    resources, more = _parts(body, (0, len(body)), _RESOURCE)
    whole = not more
    for number, resource in enumerate(resources):
        scopes, own = _parts(body, resource, _SCOPE)
        whole &= bool(scopes)
        for scope in scopes:
            metrics, others = _parts(body, scope, _METRIC)
            whole &= bool(metrics)
            found.append(Section((own, others), number, metrics))
    if not whole:
        raise ValueError("something stands with no metric")
    return found


def pieces(body: bytes, layout: Layout) -> list[tuple[tuple[bytes, bytes], _Key, Piece]]:
    """The pieces of a request that has this layout, with the context and the key of each.

    Raises:
        ValueError, IndexError: one of its metrics cannot be known again.
    """
    placed = [(context, resource, span) for context, resource, metrics in sections(body) for span in metrics]
    spans = [span for _, _, span in placed]
    starts = np.array([start for start, _ in spans])
    kinds = np.split(layout.words, layout.ends[:-1])
    cuts = np.array([np.append(np.searchsorted(words, starts), len(words)) for words in kinds])
    owner = np.searchsorted(starts, kinds[0][layout.row_time], "right") - 1
    rows, told = _cut_rows(layout, owner, cuts)
    targets = {placed[owner[at]][1]: (layout.series[at], layout.metric[at]) for at in told.tolist()}
    found = []
    for number, (context, resource, (start, end)) in enumerate(placed):
        own = [slice(*cut[number : number + 2]) for cut in cuts]
        words = [some[inside] - start for some, inside in zip(kinds, own, strict=True)]
        piece = Piece(
            _family(body, (start, end)), rows[number], targets.get(resource), words,
            layout.since[own[-1]] - cuts[-1, number], (layout.keep[start:end].tobytes(), layout.rest[start:end]),
        )  # fmt: skip
        found.append((context, _key(body, (start, end)), piece))
    return found


def _cut_rows(layout: Layout, owner: I64, cuts: I64) -> tuple[list[Rows], I64]:
    """The rows of each metric; and where those of ``target_info`` are, which belong to none."""
    ends = np.array(layout.ends)
    kind = np.searchsorted(ends[1:] - ends[0], layout.row_value, "right") + 1
    told = kind == _KINDS
    order = np.argsort(owner, kind="stable")
    order = order[~told[order]]
    of, kind = owner[order], kind[order]
    columns = (
        layout.series[order],
        layout.metric[order],
        layout.row_time[order] - cuts[0, of],
        kind,
        layout.row_value[order] + ends[0] - ends[kind - 1] - cuts[kind, of],
    )
    bounds = np.searchsorted(of, np.arange(cuts.shape[1])).tolist()
    rows = [Rows(*(column[a:b] for column in columns)) for a, b in itertools.pairwise(bounds)]
    return rows, np.flatnonzero(told)


def _rows(placed: Sequence[Placed], first: I64, times: int) -> tuple[U64, NDArray[np.uint32], I64, I64]:
    """Rows of pieces in the decoder's order; `first` word of each by kind, the first of which are `times`."""
    order = sorted(range(len(placed)), key=lambda place: placed[place].piece.family)
    seen: set[int] = set()
    parts = []
    for place in order:
        piece, _, resource = placed[place]
        parts.append(piece.rows if resource in seen else piece.first)
        if len(piece.rows.time):
            seen.add(resource)
    series, metric, time, kind, at = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    owner = np.repeat(order, [len(part.time) for part in parts])
    return series, metric, time + first[owner, 0], at + first[owner, kind] - times


def _bytes(placed: Sequence[Placed], size: int) -> tuple[NDArray[np.uint8], bytes]:
    """What must be as it was: of what stands between the metrics nothing, for it was read."""
    keep, rest, at = [], [], 0
    for piece, start, _ in placed:
        between = bytes(start - at)
        keep += [between, piece.keep]
        rest += [between, piece.rest]
        at = start + len(piece.keep)
    behind = bytes(size - at)
    return np.frombuffer(b"".join([*keep, behind]), np.uint8), b"".join([*rest, behind])


def _words(placed: Sequence[Placed], counts: I64) -> I64:
    """Offsets in the request of all numbers, kind by kind."""
    starts = np.array([start for _, start, _ in placed])
    used = np.flatnonzero(counts.any(0)).tolist()
    words = [piece.words[kind] for kind in used for piece, _, _ in placed]
    found: I64 = np.concatenate(words) + np.repeat(np.tile(starts, len(used)), counts[:, used].T.ravel())
    return found


def _since(placed: Sequence[Placed], before: I64) -> I64:
    """See `Layout.since`; so many buckets were there `before` each piece."""
    found = [
        one.piece.since + shift
        for one, shift in zip(placed, before.tolist(), strict=True)
        if len(one.piece.since)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _parts(body: bytes, span: _Span, wanted: int) -> tuple[list[_Span], bytes]:
    """The messages under a key, and all else that is there."""
    found, rest, behind = [], [], span[0]
    for key, start, end in fields(body, *span):
        if key == wanted:
            found.append((start, end))
        else:
            rest.append(body[behind:end])
        behind = end
    return found, b"".join(rest)


def _key(body: bytes, span: _Span) -> _Key:
    start, end = span
    if end - start < 2 or body[start] != _NAME or body[start + 1] > 127:
        raise ValueError("a metric that does not begin with a short name")
    return end - start, body[start + 2 : start + 2 + body[start + 1]]


def _family(body: bytes, span: _Span) -> int:
    found = [_FAMILIES[key >> 3] for key, _, _ in fields(body, *span) if key >> 3 in _FAMILIES]
    if len(found) > 1:
        raise ValueError("a metric with several kinds of points")
    return found[0] if found else 0
