"""A request's worth of the spool: taken together, numbered once, sent until it is settled."""

from __future__ import annotations

from typing import NamedTuple


class Flight(NamedTuple):
    """One request's worth of rows.

    Attributes:
        boot: ``Misstep-Boot`` of the spool that holds them.
        seq: ``Misstep-Seq``; the same each time these rows are sent.
        kind: one of `spool_file.KINDS`.
        records: how many it holds.
        payload: framed log records or metrics, concatenated.
    """

    boot: str
    seq: int
    kind: str
    records: int
    payload: bytes

    @property
    def signal(self) -> str:
        """``metrics`` or ``logs``."""
        return "metrics" if self.kind == "metric" else "logs"


class Range(NamedTuple):
    """The rows of a kind, first to last, that a request takes."""

    seq: int
    kind: str
    first: int
    last: int
