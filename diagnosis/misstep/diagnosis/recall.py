"""Answers of earlier ticks that still hold, so that a tick costs what is new and not what is stored.

Rows are only ever appended, in journal order: an answer stays true until rows with its event names come,
and is then extended by those rows alone. Where that would not be exact (an answer that its limit cut) the
question is asked anew. What a tick finds is the same with and without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from misstep.diagnosis.window import View
    from misstep.store.rows import LogRow

OWN = (
    "session.end", "ray.node.definition", "ray.node.lifecycle", "ray.worker.definition", "ray.worker.lifecycle",
    "ray.actor.definition", "ray.actor.lifecycle", "ray.job.definition", "ray.job.lifecycle", "ray.submission",
    "ray.task.lifecycle", "ray.demand", "process.start", "process.exit", "process.exception", "command.start", "command.exit",
    "session.start", "torch.rank", "torch.reading", "torch.collective", "torch.stack",
)  # fmt: skip
"""Events of a session that every tick asks about in one way or another: what is new of them is read at once."""

COMMON = ("source.state", "agent.gap", "kernel.oom_kill", "kernel.segfault")
"""The same for events that may belong to no session."""

MOVES = {
    "ray.task.lifecycle": (
        "SUBMITTED_TO_WORKER",
        "RUNNING",
        "FINISHED",
        "FAILED",
        "GETTING_AND_PINNING_ARGS",
    ),
    "ray.actor.lifecycle": ("ALIVE",),
    "ray.node.lifecycle": ("ALIVE",),
    "ray.job.lifecycle": ("CREATED",),
}
"""Events and states by which a session gets on."""

_SKEW = 60_000_000_000
FORGET_AFTER = 60
"""Ticks for which an answer that nobody asks for is kept."""
_WHOLE = 1 << 62


class Question(NamedTuple):
    """What rows are asked for, times aside; `session` None means every session."""

    session: str | None
    events: tuple[str, ...]
    states: tuple[str, ...]
    entities: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]
    contains: tuple[str, ...]
    plain: bool | None
    limit: int | None
    newest: bool

    def ask(
        self,
        view: View,
        since: int | None,
        *,
        until: int | None = None,
        after: tuple[int, int] | None = None,
    ) -> list[LogRow]:
        """The rows, in journal order."""
        return view.logs(
            session=self.session,
            events=self.events,
            states=self.states,
            entities=self.entities,
            attributes=dict(self.attributes),
            contains=self.contains,
            plain=self.plain,
            since=since,
            until=until,
            after=after,
            limit=self.limit,
            newest=self.newest,
        )

    def takes(self, row: LogRow, since: int) -> bool:
        """Whether a new row belongs to its answer."""
        return (
            (self.session is None or row.session == self.session)
            and row.event in self.events
            and (not self.states or row.state in self.states)
            and (not self.entities or row.entity in self.entities)
            and row.ts >= since
            and all(row.attributes.get(name) == value for name, value in self.attributes)
            and (not self.contains or any(part in row.body for part in self.contains))
        )


class _Answer:
    """Rows with ts >= `since`, complete up to the journal position `seq`."""

    __slots__ = ("rows", "seq", "since", "used")

    def __init__(self, rows: list[LogRow], since: int, seq: int, used: int) -> None:
        self.rows = rows
        self.since = since
        self.seq = seq
        self.used = used


class Recall:
    """The answers of one session's ticks, which must come in order of time."""

    def __init__(self) -> None:
        self._answers: dict[Question, _Answer] = {}
        self._nothing: dict[tuple[object, ...], tuple[int, int]] = {}
        self._newest: dict[str, int] = {}
        self._arrived: dict[str, list[LogRow]] = {}
        self._before = self._first = self._moved = 0
        self._seq = 0
        self._tick = 0

    def begin(self, view: View, session: str, at: int) -> None:
        """A tick begins: read what is new of the session's telling events, and learn which others have new rows."""
        self._tick += 1
        seq = view.position()[0]
        self._arrived = {}
        self._before = self._seq
        if seq > self._seq:
            if self._seq:
                self._read(view, session)
            for event in view.count_logs(by="event", after=(self._seq, _WHOLE)):
                if event not in OWN and event not in COMMON:
                    self._newest[event] = seq
            for event in self._arrived:
                self._newest[event] = seq
        self._first = self._first or at
        self._seq = seq
        idle = [
            question for question, answer in self._answers.items() if answer.used + FORGET_AFTER < self._tick
        ]
        for question in idle:
            del self._answers[question]

    def _read(self, view: View, session: str) -> None:
        rows = view.logs(session=session, events=OWN, after=(self._seq, _WHOLE))
        rows += view.logs(events=COMMON, after=(self._seq, _WHOLE))
        for row in rows:
            self._arrived.setdefault(row.event, []).append(row)
            if row.state in MOVES.get(row.event, ()):
                self._moved = max(self._moved, row.ts)

    def moved(self, since: int) -> bool | None:
        """Whether anything moved since a moment; None if that was before this memory began."""
        return self._moved >= since if self._first and since >= self._first + _SKEW else None

    def rows(self, view: View, question: Question, since: int | None) -> list[LogRow]:
        """The rows of a question with ts >= `since`, in journal order."""
        start = since or 0
        known = self._answers.get(question)
        if known is None or start < known.since or not self._extend(view, question, known, start):
            known = _Answer(question.ask(view, since), start, self._seq, self._tick)
            self._answers[question] = known
        known.used = self._tick
        return [row for row in known.rows if row.ts >= start] if start > known.since else known.rows

    def count(
        self,
        view: View,
        session: str,
        events: tuple[str, ...],
        states: tuple[str, ...],
        since: int | None,
        until: int | None,
        by: str,
    ) -> dict[str, int]:
        """How many rows there are; that there were none is remembered."""
        key = (session, events, states)
        start, seq = self._nothing.get(key, (0, -1))
        if seq >= 0 and (since or 0) >= start and all(self._newest.get(event, 0) <= seq for event in events):
            return {}
        found = view.count_logs(
            session=session, events=events, states=states, since=since, until=until, by=by
        )
        if until is None and not any(found.values()):
            self._nothing[key] = (since or 0, self._seq)
        return found

    def _extend(self, view: View, question: Question, known: _Answer, start: int) -> bool:
        """Bring an answer up to date; False if it has to be asked anew."""
        if self._untouched(question, known):
            known.seq = self._seq
            return question.limit is None or len(known.rows) < question.limit or start == known.since
        fresh = self._fresh(view, question, known, start)
        if question.limit is not None and len(known.rows) + len(fresh) >= question.limit:
            return False  # which rows the limit keeps, the store knows
        known.rows = [row for row in known.rows if row.ts >= start] + fresh
        known.since, known.seq = start, self._seq
        return True

    def _fresh(self, view: View, question: Question, known: _Answer, start: int) -> list[LogRow]:
        """What is new of an answer, in journal order."""
        at_hand = OWN if question.session is not None else COMMON
        if known.seq == self._before and question.events and set(question.events) <= set(at_hand):
            rows = [
                row
                for event in question.events
                for row in self._arrived.get(event, ())
                if question.takes(row, start)
            ]
            return sorted(rows, key=lambda row: (row.seq, row.row))
        return question.ask(view, start or None, after=(known.seq, _WHOLE))

    def _untouched(self, question: Question, known: _Answer) -> bool:
        return all(self._newest.get(event, 0) <= known.seq for event in self._touching(question))

    def _touching(self, question: Question) -> Sequence[str]:
        if question.events:
            return question.events
        return ("",) if question.plain else tuple(self._newest)


def question(
    session: str | None,
    events: Sequence[str],
    states: Sequence[str],
    entities: Sequence[str],
    attributes: Mapping[str, str] | None,
    contains: Sequence[str],
    plain: bool | None,
    limit: int | None,
    newest: bool,
) -> Question:
    """A question that can be compared with earlier ones."""
    return Question(
        session,
        tuple(events),
        tuple(states),
        tuple(entities),
        tuple(sorted((attributes or {}).items())),
        tuple(contains),
        plain,
        limit,
        newest,
    )
