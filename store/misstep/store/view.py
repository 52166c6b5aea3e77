"""The query functions: what was known at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from misstep.store import gather, graph, selection
from misstep.store.columns import text_hash
from misstep.store.logs import PROMOTED
from misstep.store.metrics import STALE
from misstep.store.promql.source import Selection
from misstep.store.reader import Reader
from misstep.store.recent import Part, Recent
from misstep.store.rows import EntityRow, LogRow, RelationRow, SeriesSamples, SessionRow
from misstep.store.series_index import Known, SeriesIndex

if TYPE_CHECKING:
    from misstep.store.columns import I64
    from misstep.store.hot import Hot
    from misstep.store.promql.labels import Labels
    from misstep.store.promql.matrix import F64
    from misstep.store.promql.steps import Steps
    from misstep.store.promql.syntax import Matcher

_COUNTED = ("event", "entity", "state", "session")
_LOG_COLUMNS = (
    "l.seq, l.row, l.ts, l.event, l.severity, l.session, l.entity, l.state, l.body, l.attributes, l.resource"
)
_MANY = 2000
"""Series up to which an instant question keeps what it reads; of more, the newest samples alone are soon read."""
_LISTED = 32
"""Values that a query lists one by one; a subquery over more of them costs as much as a small query itself."""


class View:
    """All rows that were received before `until`, hot and lake as one. Safe for any thread.

    It holds a snapshot: let go of it after use, closing is not needed.

    What is returned is in journal order, (seq, row), unless a function says otherwise.

    Attributes:
        missing: collectors of a shared lake whose unsealed rows are not in it; if there are any, answers are partial.
    """

    missing: tuple[str, ...] = ()

    def __init__(
        self,
        hot: Hot,
        until: int | None,
        index: SeriesIndex | None = None,
        *,
        own: bool = False,
        recent: Recent | None = None,
    ) -> None:
        self.until = until
        self._recent = recent
        self._index = index or SeriesIndex()
        self._reader = Reader(hot, until, own=own)
        self._known_resources: dict[int, dict[str, str]] = {}
        self._known_received: dict[int, int] = {}
        self._sessions: list[SessionRow] | None = None

    def position(self) -> tuple[int, int]:
        """Last seq that this view sees, and when it was received."""
        return self._reader.position

    def ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query of one of the query languages, in which ``{logs}``, ``{spans}``, … stand for tables.

        Raises:
            StorageError: the store cannot be read, or the query was interrupted.
        """
        return self._reader.rows(query, parameters)

    def arrow(self, query: str) -> Any:
        """What `ask` answers, as an Arrow table."""
        return self._reader.arrow(query)

    def interrupt(self) -> None:
        """End the question that another thread is asking of this view; it raises StorageError."""
        self._reader.interrupt()

    def select(self, matchers: Sequence[Matcher], start: int, end: int, limit: int) -> Selection:
        """Samples with start < ts <= end of the series that all matchers match, by series and time.

        Labels and names are those of Prometheus.

        Raises:
            QueryError: there are more than `limit`, or a pattern is none.
            StorageError: the store cannot be read, or the question was interrupted.
        """
        whole = self._index.known(self._reader)
        known = selection.choose(whole, matchers)
        parts = self._held(whole, known, start, end) if end > start else None
        if parts is None:
            return selection.samples(self._reader, known, start, end, limit)
        return Selection(known.labels, *gather.samples(parts, start, end, limit))

    def newest(
        self, matchers: Sequence[Matcher], ends: Steps, lookback: int, limit: int
    ) -> tuple[Labels, F64, I64]:
        """The newest sample of each of these series at each step: labels, values and times, (n, S).

        Raises:
            QueryError: there are more than `limit` samples, or a pattern is none.
            StorageError: the store cannot be read, or the question was interrupted.
        """
        whole = self._index.known(self._reader)
        known = selection.choose(whole, matchers)
        single = ends.number == 1 or not ends.step
        keep = not single or known.labels.size < _MANY
        parts = self._held(whole, known, ends.start - lookback, ends.end, keep=keep)
        if parts is None:
            return selection.newest(self._reader, known, ends, lookback, limit)
        return known.labels, *gather.newest(parts, known.labels.size, ends, lookback, limit)

    def _held(
        self, whole: Known, known: Known, low: int, high: int, *, keep: bool = True
    ) -> list[Part] | None:
        """What is kept of some series, if each is one of its own in Prometheus' form."""
        if self._recent is None or selection.distinct(known.labels)[0] is not known.labels:
            return None
        return self._recent.parts(self._reader, whole, known, low, high, keep=keep)

    def known(
        self,
        alternatives: Sequence[Sequence[Matcher]] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> Known:
        """The series that all matchers of one of the alternatives match; all of them without alternatives.

        Args:
            alternatives: each a conjunction.
            start: only with samples at or after; ranges of more than two hours are not looked into.
            end: only with samples at or before.

        Raises:
            QueryError: a pattern is none.
            StorageError: the store cannot be read.
        """
        whole = self._index.known(self._reader)
        found = selection.any_of(whole, alternatives) if alternatives else whole
        return selection.living(self._reader, found, start, end)

    def logs(
        self,
        *,
        session: str | None = None,
        events: Sequence[str] = (),
        entities: Sequence[str] = (),
        states: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        contains: Sequence[str] = (),
        plain: bool | None = None,
        min_severity: int = 0,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, int] | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[LogRow]:
        """Log records and events.

        Args:
            session: only of this session; ``""`` asks for those of none.
            events: only with one of these names.
            entities: only about one of these, ``kind/id``.
            states: only with one of these states.
            attributes: only with these values.
            contains: only with any of these substrings in the body.
            plain: True for lines without an event name only, False for events only.
            min_severity: OTLP severity number.
            since: only with ts >= since.
            until: only with ts < until.
            after: cursor (seq, row), exclusive.
            limit: at most so many.
            newest: the limit keeps the last ones instead of the first.
        """
        where, parameters = _conditions(
            session,
            events,
            entities,
            states,
            attributes or {},
            contains,
            plain,
            min_severity,
            since,
            until,
            after,
        )
        order = "DESC" if newest else "ASC"
        query = f"SELECT {_LOG_COLUMNS} FROM {{logs}} l WHERE {where} ORDER BY l.seq {order}, l.row {order}"
        if limit is not None:
            query += " LIMIT ?"
            parameters.append(limit)
        rows = self._reader.rows(query, parameters, after=_before(after))
        if newest:
            rows.reverse()
        if not rows:
            return []
        resources = self._resources({row[-1] for row in rows})
        received = self._received({row[0] for row in rows})
        return [
            LogRow._make((*row[:2], received[row[0]], *row[2:-1], resources.get(row[-1], {}))) for row in rows
        ]

    def count_logs(
        self,
        *,
        by: str = "",
        session: str | None = None,
        events: Sequence[str] = (),
        entities: Sequence[str] = (),
        states: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        contains: Sequence[str] = (),
        plain: bool | None = None,
        min_severity: int = 0,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, int] | None = None,
    ) -> dict[str, int]:
        """How many log records there are, by `event`, `entity`, `state` or `session`, or in all under ``""``."""
        if by and by not in _COUNTED:
            raise ValueError(f"cannot count by {by!r}; by one of {', '.join(_COUNTED)}")
        where, parameters = _conditions(
            session,
            events,
            entities,
            states,
            attributes or {},
            contains,
            plain,
            min_severity,
            since,
            until,
            after,
        )
        key = f"l.{by}" if by else "''"
        rows = self._reader.rows(
            f"SELECT {key} AS key, count(*) FROM {{logs}} l WHERE {where} GROUP BY key ORDER BY key",
            parameters,
            after=_before(after),
        )
        return {str(key): int(number) for key, number in rows}

    def samples(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        *,
        since: int | None = None,
        until: int | None = None,
    ) -> list[SeriesSamples]:
        """Samples of each series of a metric that has these labels, ordered by labels; since <= ts < until."""
        known = {id: own for id, _, own in self.series(names=[name], labels=labels or {})}
        if not known:
            return []
        found = self._reader.arrays(
            "SELECT series_id, ts, value FROM {samples} WHERE metric = ? AND series_id IN "
            "(SELECT unnest(?::UBIGINT[])) AND ts >= ? AND ts < ? ORDER BY series_id, ts, seq",
            [text_hash(name) >> 32, list(known), since or 0, until if until is not None else (1 << 63) - 1],
        )
        values = np.asarray(found["value"], np.float64)
        told = values.view(np.uint64) != STALE
        ids, ts, values = np.asarray(found["series_id"])[told], np.asarray(found["ts"])[told], values[told]
        if not len(ids):
            return []
        starts: list[int] = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist()]
        ends = [*starts[1:], len(ids)]
        by_id = {int(ids[a]): (ts[a:b], values[a:b]) for a, b in zip(starts, ends, strict=True)}
        return [SeriesSamples(name, own, *by_id[id]) for id, own in known.items() if id in by_id]

    def series(
        self, *, names: Sequence[str] = (), labels: Mapping[str, str] | None = None
    ) -> list[tuple[int, str, dict[str, str]]]:
        """Id, name and labels of each series, ordered by name and labels."""
        where: list[str] = ["true"]
        parameters: list[object] = []
        if names:
            where.append("name IN (SELECT unnest(?::VARCHAR[]))")
            parameters.append(list(names))
        for key, value in (labels or {}).items():
            where.append("labels[?] = ?")
            parameters += [key, value]
        rows = self._reader.rows(
            f"SELECT series_id, name, labels FROM {{series}} WHERE {' AND '.join(where)}", parameters
        )
        return sorted(
            ((int(id), name, own) for id, name, own in rows), key=lambda r: (r[1], sorted(r[2].items()))
        )

    def sessions(self) -> list[SessionRow]:
        """All sessions, ordered by start and name."""
        if self._sessions is None:
            self._sessions = graph.sessions(self._reader)
        return list(self._sessions)

    def entities(
        self, *, session: str | None = None, kind: str | None = None, ids: Sequence[str] = ()
    ) -> list[EntityRow]:
        """Entities, ordered by when they were first seen.

        Args:
            session: only of this session.
            kind: only of this kind.
            ids: only these, ``kind/id``.
        """
        return graph.entities(self._reader, session, kind, ids)

    def relations(
        self,
        *,
        session: str | None = None,
        source: str | None = None,
        target: str | None = None,
        at: int | None = None,
    ) -> list[RelationRow]:
        """Relations between entities with the interval in which each holds; `at` asks for those that held then."""
        return graph.relations(self._reader, session, source, target, at)

    def _received(self, wanted: set[int]) -> dict[int, int]:
        missing = wanted - self._known_received.keys()
        if missing:
            rows = self._reader.rows(
                "SELECT seq, received FROM {requests} WHERE seq BETWEEN ? AND ?", [min(missing), max(missing)]
            )
            self._known_received.update((int(seq), int(received)) for seq, received in rows)
        return self._known_received

    def _resources(self, wanted: set[int]) -> dict[int, dict[str, str]]:
        missing = wanted - self._known_resources.keys()
        if missing:
            # A resource's id is its content, so the position at which it was learned does not matter.
            rows = self._reader.rows(
                "SELECT resource, any_value(attributes) FROM {resources} "
                "WHERE resource IN (SELECT unnest(?::UBIGINT[])) GROUP BY resource",
                [sorted(missing)],
                everything=True,
            )
            self._known_resources.update((int(id), own) for id, own in rows)
        return self._known_resources


def _before(after: tuple[int, int] | None) -> int:
    """The last position none of whose rows is asked for."""
    return -1 if after is None else after[0] - 1


def _conditions(
    session: str | None,
    events: Sequence[str],
    entities: Sequence[str],
    states: Sequence[str],
    attributes: Mapping[str, str],
    contains: Sequence[str],
    plain: bool | None,
    min_severity: int,
    since: int | None,
    until: int | None,
    after: tuple[int, int] | None,
) -> tuple[str, list[object]]:
    where: list[str] = ["true"]
    parameters: list[object] = []

    def add(condition: str, *values: object) -> None:
        where.append(condition)
        parameters.extend(values)

    if session is not None:
        add("l.session = ?", session)
    for column, chosen in (("event", events), ("entity", entities), ("state", states)):
        if 0 < len(chosen) <= _LISTED:
            add(f"l.{column} IN ({', '.join('?' * len(chosen))})", *chosen)
        elif chosen:
            add(f"l.{column} IN (SELECT unnest(?::VARCHAR[]))", list(chosen))
    for key, value in attributes.items():
        if key in PROMOTED:
            add(f"l.{PROMOTED[key]} = ?", value)
        else:
            add("l.attributes[?] = ?", key, value)
    if contains:
        add("(" + " OR ".join(["contains(l.body, ?)"] * len(contains)) + ")", *contains)
    if plain is not None:
        add("l.event = ''" if plain else "l.event <> ''")
    if min_severity:
        add("l.severity >= ?", min_severity)
    if since is not None:
        add("l.ts >= ?", since)
    if until is not None:
        add("l.ts < ?", until)
    if after is not None:
        add("l.seq >= ? AND (l.seq > ? OR l.row > ?)", after[0], after[0], after[1])
    return " AND ".join(where), parameters
