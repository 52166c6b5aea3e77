"""Templates: the metrics of a sender that leaves some out, or tells them in another order, are read as well.

What a ``Metric`` message means depends on its resource and scope and on nothing else in its request. So a request whose
every metric has been seen is put into the order of one that is known, gaps filled from there, and read by its layout;
rows of what was not in the request are left out. Field numbers are those of
opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.layout import Layout, Reading
from misstep.store.verdict import Verdict
from misstep.store.walk import fields, framed

_RESOURCE, _SCOPE, _METRIC, _NAME = 0x0A, 0x12, 0x12, 0x0A
"""Keys of ``resource_metrics``, ``scope_metrics``, ``metrics`` and ``name``: number and wire type in one byte."""
_FAMILIES = {5: 0, 7: 1, 9: 2}
"""The fields of a metric that hold points, in the order in which the decoder tells their points."""

_NEVER = (9, -1)
"""The turn of a metric without points."""

_Context = tuple[bytes, bytes]
"""What a resource and a scope say besides their metrics."""
_Key = tuple[int, bytes]
"""Length and name of a metric."""


class Section(NamedTuple):
    """The metrics of one scope in a request.

    Attributes:
        resource: what the resource says besides scopes.
        scope: what the scope says besides metrics.
        metrics: where each begins and ends.
    """

    resource: bytes
    scope: bytes
    metrics: list[tuple[int, int]]


class Seen:
    """What a template read: some of its metrics; of use like a layout.

    Attributes:
        verdict: every point is stored.
        refreshed: when the series of all of these were last told to be alive, Unix nanoseconds.
    """

    __slots__ = ("_beats", "_present", "refreshed", "verdict")

    def __init__(self, verdict: Verdict, beats: I64, present: NDArray[np.bool_]) -> None:
        self.verdict, self._beats, self._present = verdict, beats, present
        self.refreshed = int(beats[present].min())

    def refresh(self, now: int) -> None:
        """They were told to be alive."""
        self._beats[self._present] = now


class Template:
    """A request with a layout, taken apart.

    Attributes:
        size: bytes that it holds.
    """

    def __init__(self, body: bytes, layout: Layout) -> None:
        """Raises ValueError or IndexError where its metrics cannot be told apart."""
        self._layout = layout
        found = [(part, span) for part in sections(body) for span in part.metrics]
        self._slots: dict[_Context, dict[_Key, int]] = {}
        for number, (part, span) in enumerate(found):
            shelf = self._slots.setdefault((part.resource, part.scope), {})
            if shelf.setdefault(_key(body, span), number) != number:
                raise ValueError("two metrics that look alike")
        edges = [0, *(edge for _, span in found for edge in span), len(body)]
        self._chunks = [body[a:b] for a, b in itertools.pairwise(edges)]
        starts = np.array([start for _, (start, _) in found])
        self._owner = np.searchsorted(starts, layout.words[layout.row_time], "right") - 1
        told = np.flatnonzero(layout.row_value == layout.ends[-1] - layout.ends[0])
        self._targets = {found[self._owner[row]][0].resource: row for row in told.tolist()}
        self._owner[told] = -1
        rows = dict(zip(*(c.tolist() for c in np.unique(self._owner, return_index=True)), strict=True))
        turns = [(_family(body, span), rows.get(number, -1)) for number, (_, span) in enumerate(found)]
        self._turns = [turn if turn[1] >= 0 else _NEVER for turn in turns]
        self._tied = _tied(layout.series, self._owner)
        self._beats = np.zeros(len(found), np.int64)
        self.size = layout.size + len(body) + 8 * len(layout.series) + 500 * len(found)

    @property
    def body(self) -> bytes:
        """The request."""
        return b"".join(self._chunks)

    def read(self, body: bytes) -> tuple[Seen, Reading] | None:
        """The points of a request, in the template's order; None if something in it is not known."""
        try:
            found = self._filled(body)
        except (ValueError, LookupError):
            return None
        if found is None:
            return None
        whole, present, first = found
        reading = self._layout.read(whole)
        if reading is None:
            return None
        kept = present[self._owner]
        for resource, row in self._targets.items():
            # It has the time of the first point that the decoder finds.
            kept[row] = resource in first
            reading.ts[row] = reading.ts[first.get(resource, row)]
        if not kept.all():
            reading = reading.only(kept)
        if self._tied and _tied(reading.series, self._owner[kept]):
            return None
        return Seen(self._layout.verdict, self._beats, present), reading

    def _filled(self, body: bytes) -> tuple[bytes, NDArray[np.bool_], dict[bytes, int]] | None:
        """The template with the metrics of a request, which of them there are, and the first row of each resource."""
        chunks, turns = self._chunks.copy(), self._turns
        present = [False] * len(turns)
        first: dict[bytes, tuple[int, int]] = {}
        for resource, scope, metrics in sections(body):
            shelf = self._slots[resource, scope]
            best = first.get(resource, _NEVER)
            for span in metrics:
                slot = shelf[_key(body, span)]
                if present[slot]:
                    return None
                present[slot] = True
                chunks[2 * slot + 1] = body[span[0] : span[1]]
                # Of one family the one that comes first in the request.
                if turns[slot][0] < best[0]:
                    best = turns[slot]
            if best is not _NEVER:
                first[resource] = best
        if not first:
            return None
        return b"".join(chunks), np.array(present), {resource: row for resource, (_, row) in first.items()}


def sections(body: bytes) -> list[Section]:
    """The scopes of a request.

    Raises:
        ValueError, IndexError: it is damaged, tells a resource twice, or tells something that stands with no metric.
    """
    found = []
    resources, more = _parts(body, 0, len(body), _RESOURCE)
    whole, seen = not more, set()
    for start, end in resources:
        scopes, resource = _parts(body, start, end, _SCOPE)
        whole &= bool(scopes)
        seen.add(resource)
        for begin, behind in scopes:
            metrics, scope = _parts(body, begin, behind, _METRIC)
            whole &= bool(metrics)
            found.append(Section(resource, scope, metrics))
    if not whole or len(seen) < len(resources):
        raise ValueError("not a request that can be taken apart")
    return found


def united(known: bytes, body: bytes) -> bytes:
    """A request with the metrics of two; of those that look alike the latter's.

    Raises:
        ValueError, IndexError: one of them cannot be taken apart.
    """
    held: dict[bytes, dict[bytes, dict[_Key, bytes]]] = {}
    for request in (known, body):
        for part in sections(request):
            metrics = held.setdefault(part.resource, {}).setdefault(part.scope, {})
            metrics.update((_key(request, span), request[slice(*span)]) for span in part.metrics)
    return b"".join(
        framed(
            _RESOURCE >> 3,
            resource
            + b"".join(
                framed(
                    _SCOPE >> 3, scope + b"".join(framed(_METRIC >> 3, metric) for metric in metrics.values())
                )
                for scope, metrics in scopes.items()
            ),
        )
        for resource, scopes in held.items()
    )


def _parts(body: bytes, at: int, end: int, wanted: int) -> tuple[list[tuple[int, int]], bytes]:
    """The messages under a key of one byte, and all else that is there."""
    found, rest = [], []
    while at < end:
        if body[at] == wanted:
            size, start = body[at + 1], at + 2
            if size > 127:
                _, start, stop = next(fields(body, at, end))
            else:
                stop = start + size
            found.append((start, stop))
        else:
            _, _, stop = next(fields(body, at, end))
            rest.append(body[at:stop])
        at = stop
    if at > end:
        raise ValueError("a field that is longer than its message")
    return found, b"".join(rest)


def _key(body: bytes, span: tuple[int, int]) -> _Key:
    start, end = span
    if end - start < 2 or body[start] != _NAME or body[start + 1] > 127:
        raise ValueError("a metric that does not begin with a short name")
    return end - start, body[start + 2 : start + 2 + body[start + 1]]


def _family(body: bytes, span: tuple[int, int]) -> int:
    found = [_FAMILIES[key >> 3] for key, _, _ in fields(body, *span) if key >> 3 in _FAMILIES]
    if len(found) > 1:
        raise ValueError("a metric with several kinds of points")
    return found[0] if found else 0


def _tied(series: U64, owner: I64) -> bool:
    """Whether two metrics tell of the same series: then their order counts."""
    order = np.argsort(series, kind="stable")
    alike = series[order[1:]] == series[order[:-1]]
    return bool((alike & (owner[order[1:]] != owner[order[:-1]])).any())
