"""One request on its way into the store, and the answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import pyarrow as pa

from misstep.store.layouts import Known
from misstep.store.segment import HighWater, Marks, Row


class Batch(NamedTuple):
    """One request.

    Attributes:
        signal: ``metrics`` or ``logs``.
        payload: the body as it came, perhaps compressed; this is what the journal keeps.
        encoding: ``gzip`` or empty.
        agent: id of the sending agent; with it `boot` and `agent_seq` make the request exactly once.
        boot: id of the agent's spool.
        agent_seq: strictly increasing in the order of sending; holes are allowed.
        verdict: a verdict to apply instead of today's limits, from a journal that is replayed.
        tenant: whose limits hold; empty for none.
    """

    signal: str
    payload: bytes
    encoding: str = ""
    agent: str = ""
    boot: str = ""
    agent_seq: int = -1
    verdict: bytes = b""
    tenant: str = ""

    @property
    def numbered(self) -> bool:
        """Whether it can be told from its own repetition."""
        return bool(self.agent) and self.agent_seq >= 0


class Receipt(NamedTuple):
    """The answer to one request.

    Attributes:
        seq: its journal position; 0 for a duplicate.
        received: its time of receipt, Unix nanoseconds, greater than that of every request before.
        duplicate: it was stored before and was not stored again.
        rejected: how many of its points or records were not stored.
        warning: why, in one line for the sender.
        exhausted: nothing was stored, because the sender has all the series that it may have.
    """

    seq: int
    received: int
    duplicate: bool = False
    rejected: int = 0
    warning: str = ""
    exhausted: bool = False


class Waiting(NamedTuple):
    """A request that waits for its commit; `body` is the payload, decompressed, `known` what a layout read of it."""

    batch: Batch
    body: bytes
    future: Future[Receipt]
    known: Known | None = None


def marks_of(rows: Sequence[Row]) -> Marks:
    """The high-water marks that these rows, in order, raise."""
    return {
        (row.agent, row.boot): HighWater(row.agent_seq, row.received)
        for row in rows
        if row.agent and row.agent_seq >= 0
    }


def table_of(rows: Sequence[Row]) -> Any:
    """Rows of table `requests`."""
    columns = {
        "seq": (pa.int64(), [row.seq for row in rows]),
        "received": (pa.int64(), [row.received for row in rows]),
        "signal": (pa.string(), [row.signal for row in rows]),
        "agent": (pa.string(), [row.agent for row in rows]),
        "boot": (pa.string(), [row.boot for row in rows]),
        "agent_seq": (pa.int64(), [row.agent_seq for row in rows]),
        "bytes": (pa.int64(), [len(row.payload) for row in rows]),
        "verdict": (pa.binary(), [row.verdict for row in rows]),
    }
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})
