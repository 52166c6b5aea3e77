"""What detectors state: observations, each with the stored rows that bear it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from misstep.store.rows import LogRow


class Evidence(NamedTuple):
    """A reference to a stored row, or to a series whose samples bear something out."""

    table: str
    seq: int = 0
    row: int = 0
    series: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The reference as an incident carries it."""
        if self.table == "samples":
            return {"table": self.table, "series": self.series}
        return {"table": self.table, "seq": self.seq, "row": self.row}


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that happened, as one source tells it.

    Attributes:
        kind: for example ``worker.died``; causes name the kinds that they explain.
        entity: ``kind/id`` of what it happened to.
        name: how a person calls that entity.
        ts: Unix nanoseconds, by the clock of whoever reported it.
        statement: what happened, to be read after the name.
        source: a key of `misstep.core.names.SOURCES`.
        links: observations that share one of these belong to one case (``ray_worker/…``, ``actor/…``,
            ``raise/pipeline.py:41/ValueError`` …).
        facts: what causes need to know, by name.
        count: how often it happened; `ts` is the first time.
    """

    kind: str
    entity: str
    name: str
    ts: int
    statement: str
    source: str
    links: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    count: int = 1

    @property
    def order(self) -> tuple[int, str, str, str]:
        """A key that sorts observations alike whatever order they arrived in."""
        return (self.ts, self.kind, self.entity, self.statement)


def of_rows(rows: Iterable[LogRow], limit: int = 3) -> tuple[Evidence, ...]:
    """References to the first rows, in journal order."""
    return tuple(
        Evidence("logs", seq, row) for seq, row in sorted({(row.seq, row.row) for row in rows})[:limit]
    )
