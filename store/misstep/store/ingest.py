"""From payloads to rows: decode a group of requests at once, judge them or apply the journal's verdict.

One undecodable payload fails a whole group without saying which: the group is halved until it stands alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from misstep.core.errors import InputError
from misstep.store import otlp
from misstep.store.columns import I64, U64, IdSet, RecentIds
from misstep.store.layout import Reading
from misstep.store.layouts import Known, Layouts
from misstep.store.limits import EVENTS_REMEMBERED, LIVE, Limits, LiveSeries, judge_metrics
from misstep.store.logs import Logs, resource_table
from misstep.store.metrics import Metrics
from misstep.store.remote_write import RemoteWrite
from misstep.store.schema import TABLES
from misstep.store.spans import Spans
from misstep.store.steady import Placed
from misstep.store.tenants import Tenants
from misstep.store.verdict import CODE, DUPLICATE, Verdict, split

_log = logging.getLogger(__name__)
_NONE: Mapping[int, Known] = {}

Decoded = Metrics | RemoteWrite | Logs | Spans


class Steady(NamedTuple):
    """Metric requests that were read by their layouts; all their points are stored."""

    known: list[Known]


class Part(NamedTuple):
    """Requests of one signal that were decoded together.

    Attributes:
        places: for each request of the part its place in the group.
        columns: what they hold.
    """

    places: list[int]
    columns: Decoded | Steady


class Group(NamedTuple):
    """Requests that are judged and committed together.

    Attributes:
        parts: what could be decoded.
        verdicts: one per request; None for one that must not be stored, with the reason in `refused`.
        refused: why a request is malformed, by place.
    """

    parts: list[Part]
    verdicts: list[Verdict | None]
    refused: dict[int, InputError]

    def only(self, kept: list[int]) -> Group:
        """The group without the requests that were refused, places counted anew."""
        place = {old: new for new, old in enumerate(kept)}
        parts = [part._replace(places=[place[p] for p in part.places]) for part in self.parts]
        return Group(parts, [self.verdicts[old] for old in kept], {})


class Made(NamedTuple):
    """What is to be inserted: Arrow tables by name, and what layouts read."""

    tables: dict[str, list[Any]]
    steady: list[Placed]


class _Learned:
    """What a group brings to be remembered, once all its rows are made."""

    def __init__(self) -> None:
        self.live: list[tuple[U64, int]] = []
        self.defined: list[U64] = []
        self.resources: list[U64] = []
        self.events: list[U64] = []


class Ingest:
    """What must be remembered between requests to judge and to store them. One thread at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.layouts = Layouts()
        self._live = LiveSeries()
        self._tenants = Tenants(limits.series_per_tenant)
        self._defined = IdSet()
        self._resources = IdSet()
        self._events = RecentIds(EVENTS_REMEMBERED)

    @property
    def live_series(self) -> int:
        """Series that count against the limit."""
        return len(self._live)

    def remember(
        self, *, defined: U64, resources: U64, live: U64, received: int, events: Sequence[str]
    ) -> None:
        """What the lake has already."""
        self._defined.add(defined)
        self._resources.add(resources)
        self._live.add(live, received)
        self._events.add(event_hashes(np.array(events, dtype=object)))

    def judge(
        self,
        signals: Sequence[str],
        payloads: Sequence[bytes],
        given: Sequence[bytes],
        known: Sequence[Known | None] = (),
        *,
        tenants: Sequence[str] = (),
        now: int = 0,
    ) -> Group:
        """Decode a group and decide on each item.

        Args:
            signals: of each request.
            payloads: decompressed.
            given: verdicts of the journal or of a sender that replays one; an empty one is made here.
            known: what `layouts` read of each.
            tenants: whose each is.
            now: Unix nanoseconds.
        """
        tenants = tenants or [""] * len(payloads)
        verdicts: list[Verdict | None] = [None] * len(payloads)
        refused: dict[int, InputError] = {}
        steady = {place: one for place, one in enumerate(known) if one is not None and not given[place]}
        parts = _decode(signals, payloads, given, steady)
        for place, data in enumerate(given):
            if Verdict.is_undecodable(data):
                verdicts[place] = Verdict(undecodable=True)
        for part in parts:
            if isinstance(part.columns, Steady):
                verdicts = [steady[p].layout.verdict if p in steady else v for p, v in enumerate(verdicts)]
                for place, one in steady.items():
                    self._tenants.refresh(tenants[place], one.reading.series, now)
                continue
            codes = self._codes(part.columns)
            if isinstance(part.columns, (Metrics, RemoteWrite)):
                whose = ["" if given[place] else tenants[place] for place in part.places]
                codes = self._tenants.judge(part.columns, codes, whose, now)
            split_codes = split(codes, part.columns.request, len(part.places))
            for index, (place, own) in enumerate(zip(part.places, split_codes, strict=True)):
                verdicts[place] = (
                    Verdict.from_bytes(given[place], len(own))
                    if given[place]
                    else Verdict(own, _extra(part.columns, index))
                )
        return self._put_aside(Group(parts, verdicts, refused), signals, payloads)

    def replay(self, signals: Sequence[str], payloads: Sequence[bytes], given: Sequence[bytes]) -> Group:
        """Decode a group of the journal and apply what was decided when it came."""
        parts = _decode(signals, payloads, given)
        verdicts: list[Verdict | None] = [Verdict(undecodable=True)] * len(payloads)
        for part in parts:
            assert not isinstance(part.columns, Steady)
            bounds = np.searchsorted(part.columns.request, np.arange(len(part.places) + 1))
            for place, items in zip(part.places, np.diff(bounds).tolist(), strict=True):
                try:
                    verdicts[place] = Verdict.from_bytes(given[place], items)
                except ValueError:
                    verdicts[place] = Verdict(undecodable=True)
        return Group(parts, verdicts, {})

    def rows(self, group: Group, seq: I64, received: I64) -> Made:
        """Rows to insert for a group that was committed, and remember what it brought.

        Args:
            group: judged or replayed.
            seq: journal position of each request, in order.
            received: when each was received.
        """
        tables: dict[str, list[Any]] = {table.name: [] for table in TABLES}
        steady: list[Placed] = []
        learned = _Learned()
        for part in group.parts:
            places = np.array(part.places)
            if isinstance(part.columns, Steady):
                known = part.columns.known
                steady += [
                    Placed(one.reading, at) for one, at in zip(known, seq[places].tolist(), strict=True)
                ]
                _refresh(known, int(received[places[-1]]), learned)
                continue
            keep = _accepted(part, part.columns, group.verdicts)
            if not keep.any():
                continue
            if isinstance(part.columns, (Metrics, RemoteWrite)):
                self._metric_rows(part.columns, keep, seq[places], received[places], tables, learned)
            elif isinstance(part.columns, Spans):
                tables["spans"].append(part.columns.table(keep, seq[places], received[places]))
                at = np.flatnonzero(keep)
                self._resource_rows(part.columns, at, seq[places][part.columns.request], tables, learned)
            else:
                self._log_rows(part.columns, keep, seq[places], received[places], tables, learned)
        self._learn(learned)
        return Made(tables, steady)

    def _codes(self, columns: Decoded) -> NDArray[np.uint8]:
        if isinstance(columns, (Metrics, RemoteWrite)):
            return judge_metrics(columns, self._live, self._limits)
        codes = columns.codes.copy()
        if isinstance(columns, Spans):
            return codes
        ids = columns.event_ids
        named = np.flatnonzero((ids != "") & (codes == 0))
        hashes = event_hashes(ids[named])
        copy = self._events.contains(hashes)
        first = np.zeros(len(named), bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        codes[named[copy | ~first]] = DUPLICATE
        return codes

    def _metric_rows(
        self,
        metrics: Metrics | RemoteWrite,
        keep: NDArray[np.bool_],
        seq: I64,
        received: I64,
        tables: dict[str, list[Any]],
        learned: _Learned,
    ) -> None:
        at = np.flatnonzero(keep[metrics.point])
        position = seq[metrics.request]
        columns: dict[str, NDArray[Any]] = {
            "metric": metrics.metric,
            "series_id": metrics.series,
            "ts": metrics.ts,
            "value": metrics.value,
            "seq": position[metrics.point],
        }
        whole = len(at) == len(metrics.point)
        tables["samples"].append(
            pa.table({name: pa.array(c if whole else c[at]) for name, c in columns.items()})
        )
        ids, first = np.unique(metrics.series[at], return_index=True)
        learned.live.append((ids, int(received.max())))
        fresh = np.sort(at[first[~self._defined.contains(ids)]])
        if len(fresh):
            tables["series"].append(metrics.define(fresh, position[metrics.point[fresh]]))
            learned.defined.append(metrics.series[fresh])
        exemplars = metrics.exemplars(keep, position)
        if exemplars is not None:
            tables["exemplars"].append(exemplars)
        if isinstance(metrics, Metrics):
            self._resource_rows(metrics, np.flatnonzero(keep), position, tables, learned)

    def _log_rows(
        self,
        logs: Logs,
        keep: NDArray[np.bool_],
        seq: I64,
        received: I64,
        tables: dict[str, list[Any]],
        learned: _Learned,
    ) -> None:
        tables["logs"].append(logs.table(keep, seq, received))
        ids = np.unique(logs.event_ids[keep])
        learned.events.append(event_hashes(ids[ids != ""]))
        self._resource_rows(logs, np.flatnonzero(keep), seq[logs.request], tables, learned)

    def _resource_rows(
        self,
        columns: Metrics | Logs | Spans,
        at: I64,
        position: I64,
        tables: dict[str, list[Any]],
        learned: _Learned,
    ) -> None:
        of_item = columns.resource[at]
        ids, first = np.unique(columns.resource_ids[of_item], return_index=True)
        known = self._resources.contains(ids)
        for others in learned.resources:
            known |= np.isin(ids, others)
        fresh = first[~known]
        if len(fresh):
            index = of_item[fresh]
            tables["resources"].append(
                resource_table(columns.resources, columns.resource_ids, index, position[at[fresh]])
            )
            learned.resources.append(ids[~known])

    def learn_layouts(self, payloads: Sequence[bytes], verdicts: Sequence[Verdict]) -> None:
        """Metric requests that had to be decoded: those that were accepted whole may be read faster next time."""
        whole = [
            payload
            for payload, verdict in zip(payloads, verdicts, strict=True)
            if not verdict.undecodable and not verdict.codes.any() and not verdict.extra
        ]
        if whole:
            self.layouts.learn(whole, read_points)

    def _learn(self, learned: _Learned) -> None:
        for ids, received in learned.live:
            self._live.add(ids, received)
        for ids in learned.defined:
            self._defined.add(ids)
        for ids in learned.resources:
            self._resources.add(ids)
        for ids in learned.events:
            self._events.add(ids)

    def _put_aside(self, group: Group, signals: Sequence[str], payloads: Sequence[bytes]) -> Group:
        """What protobuf's own parser refuses as well is malformed; what only we cannot read is kept as it is."""
        for place, verdict in enumerate(group.verdicts):
            if verdict is None and place not in group.refused:
                reason = otlp.malformed(signals[place], payloads[place])
                if reason:
                    group.refused[place] = InputError(f"not a request of {signals[place]}: {reason}")
                else:
                    group.verdicts[place] = Verdict(undecodable=True)
        return group


def _refresh(known: list[Known], now: int, learned: _Learned) -> None:
    """Say now and then that the series of steady senders live."""
    for one in known:
        if now - one.layout.refreshed > LIVE // 4:
            one.layout.refresh(now)
            learned.live.append((np.unique(one.reading.series), now))


def event_hashes(ids: NDArray[Any]) -> U64:
    """Hashes of event ids that hold within this process only."""
    return np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)


def read_points(payloads: list[bytes]) -> list[Reading | None]:
    """The points of each request, if they are all that is in it and none is rejected."""
    try:
        metrics = Metrics(payloads)
    except otlp.UndecodableError:
        return (
            [one for payload in payloads for one in read_points([payload])] if len(payloads) > 1 else [None]
        )
    more = metrics.codes != 0
    more[metrics.with_exemplars()] = True
    odd = np.zeros(len(payloads), np.bool_)
    odd[metrics.request[more]] = True
    bounds = np.searchsorted(metrics.request[metrics.point], np.arange(len(payloads) + 1)).tolist()
    return [
        None
        if odd[place]
        else Reading(
            metrics.series[first:last],
            metrics.metric[first:last],
            metrics.ts[first:last],
            metrics.value[first:last],
        )
        for place, (first, last) in enumerate(itertools.pairwise(bounds))
    ]


def _decode(
    signals: Sequence[str],
    payloads: Sequence[bytes],
    given: Sequence[bytes],
    steady: Mapping[int, Known] = _NONE,
) -> list[Part]:
    readers: dict[str, Callable[[list[bytes]], Decoded]] = {
        otlp.METRICS: Metrics,
        otlp.LOGS: Logs,
        otlp.TRACES: Spans,
        otlp.REMOTE_WRITE: RemoteWrite,
    }
    aside = [Verdict.is_undecodable(data) for data in given]
    parts: list[Part] = []
    if steady:
        parts.append(Part(list(steady), Steady(list(steady.values()))))
    for signal, read in readers.items():
        places = [
            place
            for place, own in enumerate(signals)
            if own == signal and not aside[place] and place not in steady
        ]
        parts += _halve(read, places, payloads)
    return parts


def _halve(
    read: Callable[[list[bytes]], Decoded], places: list[int], payloads: Sequence[bytes]
) -> list[Part]:
    if not places:
        return []
    try:
        return [Part(places, read([payloads[place] for place in places]))]
    except otlp.UndecodableError:
        if len(places) == 1:
            return []
    except Exception:  # noqa: BLE001 - whatever is wrong with one payload must not stop those beside it
        if len(places) == 1:
            _log.exception("a payload of %d bytes cannot be made into columns", len(payloads[places[0]]))
            return []
    middle = len(places) // 2
    return _halve(read, places[:middle], payloads) + _halve(read, places[middle:], payloads)


def _extra(columns: Decoded, index: int) -> dict[int, int]:
    """What a request brought that never became an item."""
    native = int(columns.native[index]) if isinstance(columns, RemoteWrite) else 0
    return {CODE["native_histogram"]: native} if native else {}


def _accepted(part: Part, columns: Decoded, verdicts: Sequence[Verdict | None]) -> NDArray[np.bool_]:
    found: list[NDArray[np.uint8]] = []
    for place in part.places:
        verdict = verdicts[place]
        assert verdict is not None
        items = int(np.count_nonzero(columns.request == len(found)))
        found.append(np.full(items, 255, np.uint8) if verdict.undecodable else verdict.codes)
    keep: NDArray[np.bool_] = np.concatenate(found) == 0
    return keep
