"""What one reading of a source brought: events, log lines, points, and the cursor up to which it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from misstep.agent.otlp import Value, log_record, record_attributes, utf8
from misstep.agent.series import Series, Sheet
from misstep.core import names

INFO, WARNING, ERROR, FATAL = 9, 13, 17, 21
"""OTLP severity numbers."""

_DECLARED = frozenset(event.name for event in names.EVENTS)


class Records:
    """Collects and encodes; the spool takes it whole, in one transaction.

    Args:
        now: Unix nanoseconds of the reading.

    Attributes:
        events: encoded log records that carry an event name.
        lines: encoded log records that do not.
        cursors: positions to be committed together with the rest.
        gaps: ``(kind, reason)`` → how many records of that kind (``event``, ``line``, ``metric``, ``kernel``, …) were lost.
    """

    __slots__ = ("cursors", "encoded", "events", "gaps", "lines", "now", "points", "series", "values")

    def __init__(self, now: int) -> None:
        self.now = now
        self.events: list[bytes] = []
        self.lines: list[bytes] = []
        self.series: list[Series] = []
        self.values: list[float] = []
        self.encoded = b""
        self.points = 0
        self.cursors: dict[str, str] = {}
        self.gaps: dict[tuple[str, str], int] = {}

    def event(
        self,
        name: str,
        *,
        entity: str = "",
        session: str = "",
        state: str = "",
        body: str = "",
        time: int = 0,
        severity: int = INFO,
        attributes: Mapping[str, Value] | None = None,
    ) -> None:
        """Add an event.

        Args:
            name: declared in `misstep.core.names.EVENTS`.
            entity: ``kind/id`` of its subject.
            time: when it happened, Unix nanoseconds; without it, now.
            attributes: the rest; those whose value is an empty string are left out.

        Raises:
            KeyError: nobody declared that event.
        """
        if name not in _DECLARED:
            raise KeyError(name)
        held: dict[str, Value] = {}
        if session:
            held[names.SESSION] = session
        if entity:
            held[names.ENTITY] = entity
        if state:
            held[names.STATE] = state
        if attributes:
            for key, value in attributes.items():
                if value != "":
                    held[key] = value
        self.events.append(
            log_record(time or self.now, self.now, severity, utf8(body), record_attributes(held), name)
        )

    def line(self, body: bytes, attributes: bytes, *, time: int = 0, severity: int = 0) -> None:
        """Add a log line as it was read; the attributes come from `record_attributes`, those of a whole file encoded once."""
        if not body.isascii():
            body = body.decode("utf-8", "replace").encode()
        self.lines.append(log_record(time or self.now, self.now, severity, body, attributes))

    def point(self, series: Series, value: float) -> None:
        """Add a point at `now`; the series object should be the same at each reading."""
        self.series.append(series)
        self.values.append(value)

    def sheet(self, sheet: Sheet, series: Sequence[Series], values: Sequence[float], time: int) -> None:
        """Add points that come at a cadence and a time of their own, and therefore have a sheet of their own."""
        self.encoded += sheet.encode(time, series, values)
        self.points += len(series)

    def cursor(self, key: str, value: str) -> None:
        """Remember a position, for example ``ray_logs:<inode>`` → offset; an empty value forgets the key."""
        self.cursors[key] = value

    def gap(self, kind: str, count: int, reason: str) -> None:
        """Say that `count` records could not be read or kept; it becomes an ``agent.gap`` event and a count."""
        if count > 0:
            self.gaps[kind, reason] = self.gaps.get((kind, reason), 0) + count

    def metrics(self, sheet: Sheet) -> bytes:
        """The points, encoded; empty when there are none."""
        return (sheet.encode(self.now, self.series, self.values) if self.series else b"") + self.encoded

    def __bool__(self) -> bool:
        return bool(self.events or self.lines or self.series or self.encoded or self.cursors or self.gaps)
