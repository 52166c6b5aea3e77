"""The rows that query functions return. Times are Unix nanoseconds, positions are the journal's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LogRow(NamedTuple):
    """One log record or event, in journal order by (`seq`, `row`).

    Attributes:
        seq: journal position of the request that brought it.
        row: its place in that request.
        received: when the journal took it.
        ts: when it happened, by the sender's clock.
        event: event name; empty for a plain log line.
        entity: ``kind/id`` of its subject, or empty.
        state: what the event says of the subject, or empty.
        attributes: the rest, values as text.
        resource: attributes of the sender (host.name, host.id, …).
    """

    seq: int
    row: int
    received: int
    ts: int
    event: str
    severity: int
    session: str
    entity: str
    state: str
    body: str
    attributes: dict[str, str]
    resource: dict[str, str]


class SeriesSamples(NamedTuple):
    """The samples of one series, ordered by time; both arrays have shape (n,)."""

    name: str
    labels: dict[str, str]
    ts: NDArray[np.int64]
    values: NDArray[np.float64]


class SessionRow(NamedTuple):
    """One life of one cluster as far as it was known.

    Attributes:
        state: ``live``, ``ended`` (it was shut down) or ``lost`` (it vanished).
        ended: None while it lives.
        heard: when the last record of it was received; an agent repeats one at least every 30 s.
    """

    session: str
    kind: str
    name: str
    started: int
    ended: int | None
    heard: int
    state: str
    attributes: dict[str, str]


class EntityRow(NamedTuple):
    """An entity with its newest attributes; `ended` is None while it exists."""

    entity: str
    session: str
    first_seen: int
    last_seen: int
    ended: int | None
    state: str
    attributes: dict[str, str]


class RelationRow(NamedTuple):
    """A relation and the interval in which it holds; `valid_to` None means still."""

    source: str
    relation: str
    target: str
    session: str
    valid_from: int
    valid_to: int | None
