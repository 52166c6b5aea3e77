"""What one tick can see: bounded look-ups in the store, each asked at most once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from misstep.core.identity import Entity
from misstep.diagnosis.recall import MOVES, Question, Recall, question
from misstep.store.rows import EntityRow, LogRow, RelationRow, SeriesSamples, SessionRow

SECOND = 1_000_000_000
LOOKBACK = 15 * 60 * SECOND
"""How far back a tick looks for what it does not know yet; what is older lives on in its incident."""


class View(Protocol):
    """The part of the store's view that diagnosis reads; rows come in journal order."""

    def logs(
        self,
        *,
        session: str | None = None,
        events: Sequence[str] = (),
        entities: Sequence[str] = (),
        states: Sequence[str] = (),
        attributes: Mapping[str, str] = ...,
        contains: Sequence[str] = (),
        plain: bool | None = None,
        min_severity: int = 0,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, int] | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> list[LogRow]:
        """Log records and events that pass every filter."""
        ...

    def count_logs(
        self,
        *,
        session: str | None = None,
        events: Sequence[str] = (),
        entities: Sequence[str] = (),
        states: Sequence[str] = (),
        attributes: Mapping[str, str] = ...,
        contains: Sequence[str] = (),
        plain: bool | None = None,
        min_severity: int = 0,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, int] | None = None,
        by: str = "",
    ) -> dict[str, int]:
        """How many pass, by a column."""
        ...

    def position(self) -> tuple[int, int]:
        """Last journal position that the view sees, and when it was received."""
        ...

    def samples(
        self,
        name: str,
        labels: Mapping[str, str] = ...,
        *,
        since: int | None = None,
        until: int | None = None,
    ) -> list[SeriesSamples]:
        """Series with their samples."""
        ...

    def sessions(self) -> list[SessionRow]:
        """Every session."""
        ...

    def entities(
        self, *, session: str | None = None, kind: str | None = None, ids: Sequence[str] = ()
    ) -> list[EntityRow]:
        """Entities with their newest state."""
        ...

    def relations(
        self,
        *,
        session: str | None = None,
        source: str | None = None,
        target: str | None = None,
        at: int | None = None,
    ) -> list[RelationRow]:
        """Relations between entities."""
        ...


class Window:
    """A session as it stood at a tick.

    Args:
        view: rows that were received before the tick.
        session: the session to look at.
        at: the tick, Unix nanoseconds.
        recall: what earlier ticks of this session were answered.
    """

    def __init__(self, view: View, session: str, at: int, recall: Recall | None = None) -> None:
        self._recall = recall or Recall()
        self._recall.begin(view, session, at)
        self.view = view
        self.session = session
        self.at = at
        self.since = at - LOOKBACK
        self._rows: dict[tuple[Any, ...], list[LogRow]] = {}
        self._bodies: dict[tuple[int, int], dict[str, Any]] = {}
        self._session: SessionRow | None = None

    def rows(
        self,
        *events: str,
        states: Sequence[str] = (),
        entities: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        contains: Sequence[str] = (),
        plain: bool | None = None,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        newest: bool = False,
        everywhere: bool = False,
    ) -> list[LogRow]:
        """Rows of the session by time (`everywhere`: of every session); without `since`, all of its life."""
        asked = question(
            None if everywhere else self.session, events, states, entities, attributes, contains, plain, limit, newest
        )  # fmt: skip
        key = (asked, since, until)
        found = self._rows.get(key)
        if found is None:
            found = sorted(
                self._answer(asked, since, until),
                key=lambda row: (row.ts, row.event, row.entity, row.state, row.body, row.seq, row.row),
            )
            self._rows[key] = found
        return found

    def _answer(self, asked: Question, since: int | None, until: int | None) -> list[LogRow]:
        if until is None:
            return self._recall.rows(self.view, asked, since)
        if asked.limit is not None:
            return asked.ask(self.view, since, until=until)
        return [row for row in self._recall.rows(self.view, asked, since) if row.ts < until]

    def count(
        self,
        *events: str,
        states: Sequence[str] = (),
        since: int | None = None,
        until: int | None = None,
        by: str = "",
    ) -> dict[str, int]:
        """How many rows of the session pass."""
        return self._recall.count(self.view, self.session, events, tuple(states), since, until, by)

    def moved(self, since: int, until: int | None = None) -> bool:
        """Whether any task started or ended, or any actor, node or driver came up, in an interval."""
        known = self._recall.moved(since) if until is None else None
        if known is not None:
            return known
        return any(
            any(self.count(event, states=states, since=since, until=until).values())
            for event, states in MOVES.items()
        )

    def body(self, row: LogRow) -> dict[str, Any]:
        """The row's body as JSON; empty if it is none."""
        key = (row.seq, row.row)
        body = self._bodies.get(key)
        if body is None:
            try:
                body = json.loads(row.body)
            except ValueError:
                body = {}
            if not isinstance(body, dict):
                body = {}
            self._bodies[key] = body
        return body

    @property
    def session_row(self) -> SessionRow | None:
        """What is known of the session as a whole."""
        if self._session is None:
            for row in self.view.sessions():
                if row.session == self.session:
                    self._session = row
        return self._session


def entity_id(entity: str) -> str:
    """The id in ``kind/id``, or an empty text."""
    return entity.partition("/")[2]


def kind_of(entity: str) -> str:
    """The kind in ``kind/id``."""
    return Entity.parse(entity).kind if "/" in entity else ""


def transitions(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state transitions of a Ray lifecycle event, oldest first."""
    found = body.get("stateTransitions")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
