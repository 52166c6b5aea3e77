"""What could be seen: a source may speak against a cause only if it could be read all the time."""

from __future__ import annotations

from typing import Any, NamedTuple

from misstep.core import names
from misstep.core.identity import Session
from misstep.diagnosis.window import SECOND, Window
from misstep.store.rows import LogRow

_REPEATED = 30 * SECOND
_MARGIN = 60 * SECOND
_SEEN = {"gpu": ("ok", "off"), "infiniband": ("ok", "off")}
"""States in which a source hides nothing: a machine without a GPU or a port has none to lose."""

_LOGS = ("ray_logs", "training_logs")
_OF_KIND = {
    "line": _LOGS,
    "log_byte": _LOGS,
    "kernel": ("kernel_log",),
    "exit": ("process_exits",),
    "metric": ("host", "processes", "gpu", "infiniband", "ray_metrics", "torch_collectives"),
}
"""Whose records are lost with a kind; with any other, everybody's."""
_WORDS = {"log_byte": "byte of logs", "kernel": "kernel record", "metric": "point", "tick": "reading"}


class Gap(NamedTuple):
    """A source that could not be read for all of an interval, or only in part.

    Attributes:
        partial: it was read, and a part of it was shut: no cause was out of its sight.
    """

    source: str
    reason: str
    remedy: str
    partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The gap as an incident carries it."""
        return {"source": self.source, "reason": self.reason, "remedy": self.remedy}


class Coverage:
    """The state of every source, as the agents reported it."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._rows: dict[str, list[LogRow]] | None = None

    def gap(self, source: str, start: int, end: int) -> Gap | None:
        """Why a source may not speak for an interval; None if it was read all the time."""
        if source.startswith("ray_") and Session.parse(self._window.session).kind != "ray":
            return None  # a command that started no Ray had none to be seen
        rows = self._by_source().get(source, [])
        mine = [row for row in rows if row.session]
        if mine:
            rows, start = mine, max(start, mine[0].ts)  # before the session was found, nobody spoke of it
        title = names.SOURCES.get(source, source)
        known = any(row.ts <= end + _REPEATED for row in rows)
        bad = next(
            (
                row
                for row in rows
                if row.state not in _SEEN.get(source, ("ok",))
                and self._last_before(rows, start, row.entity) <= row.ts <= end
            ),
            None,
        )
        if not known:
            return Gap(source, f"{title}: nobody reported on it", "misstep doctor")
        if bad is not None:
            attributes = bad.attributes
            reason = attributes.get(names.SOURCE_REASON, "") or f"{title}: {bad.state}"
            return Gap(source, reason, attributes.get(names.SOURCE_REMEDY, ""))
        return self._dropped(source, start, end)

    def gaps(self, start: int, end: int) -> list[Gap]:
        """Every source that could not be read for all of an interval, or of which a command would open more."""
        known = [
            source for source in names.SOURCES if source in self._by_source() and not self._is_absent(source)
        ]
        found = [self.gap(source, start, end) or self._part(source, end) for source in known]
        return [gap for gap in found if gap is not None]

    def reported(self, source: str) -> bool:
        """Whether any agent ever said how this source stands."""
        return source in self._by_source()

    def _is_absent(self, source: str) -> bool:
        """Whether no machine ever had what a source of training jobs reads."""
        rows = self._by_source()[source]
        return source.startswith(("torch_", "training_", "nccl_")) and all(
            row.state == "off" and not row.session for row in rows
        )

    def _part(self, source: str, end: int) -> Gap | None:
        """What of a source that was read stayed shut, as its agent said last."""
        newest = {row.entity: row.attributes for row in self._by_source().get(source, []) if row.ts <= end}
        for held in newest.values():
            reason, remedy = held.get(names.SOURCE_REASON, ""), held.get(names.SOURCE_REMEDY, "")
            if reason and remedy:
                return Gap(source, reason, remedy, partial=True)
        return None

    def _dropped(self, source: str, start: int, end: int) -> Gap | None:
        for row in self._window.rows("agent.gap", since=start - _MARGIN, until=end + SECOND, everywhere=True):
            kind = row.attributes.get(names.DROPPED_KIND, "")
            if row.session in ("", self._window.session) and source in _OF_KIND.get(kind, (source,)):
                return Gap(
                    source, f"{_counted(kind, row.attributes.get(names.DROPPED, ''))} lost: {row.body}", ""
                )
        return None

    def _by_source(self) -> dict[str, list[LogRow]]:
        if self._rows is None:
            found: dict[str, list[LogRow]] = {}
            since = self._window.since
            for row in self._window.rows("source.state", since=since, everywhere=True):
                if row.session in ("", self._window.session):
                    found.setdefault(row.attributes.get(names.SOURCE, ""), []).append(row)
            self._rows = found
        return self._rows

    @staticmethod
    def _last_before(rows: list[LogRow], start: int, entity: str) -> int:
        """When the state that held at `start` was reported; states are repeated, so an old one holds until the next."""
        return max((row.ts for row in rows if row.entity == entity and row.ts <= start), default=0)


def _counted(kind: str, number: str) -> str:
    """``1 line was`` or ``3 bytes of logs were``."""
    noun, of, rest = (_WORDS.get(kind, kind) or "record").partition(" of ")
    return f"1 {noun}{of}{rest} was" if number == "1" else f"{number} {noun}s{of}{rest} were".strip()
