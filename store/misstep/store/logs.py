"""Logs of OTLP as columns: one item per log record, an event being a record with an ``event_name``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core import names
from misstep.store import otlp
from misstep.store.attributes import Attributes, value_text
from misstep.store.columns import I64, U64, lists, mix, owners
from misstep.store.verdict import CODE

PROMOTED = {
    names.SESSION: "session",
    names.ENTITY: "entity",
    names.STATE: "state",
    names.EVENT_ID: "event_id",
}
"""Attributes that are columns of their own; the rest is a map."""


class Logs:
    """The records of a batch of requests, ordered by request.

    Attributes:
        request: index of the request in the batch, shape (n,).
        ts: Unix nanoseconds; the time of observation where the sender gave no other, 0 where it gave none.
        event_ids: object array of strings, empty where a record has none.
        codes: why a record cannot be stored by its own shape, 0 if it can.
        resources: attributes of each resource, with `resource_ids`.
    """

    def __init__(self, payloads: list[bytes]) -> None:
        """Decode.

        Raises:
            UndecodableError: one of them is damaged.
        """
        resources, per_request = lists(otlp.decode(otlp.LOGS, payloads))
        self.resources = Attributes.read(resources.field("resource").field("attributes"))
        self.resource_ids = mix(self.resources.pair_sums())
        scopes, per_resource = lists(resources.field("scope_logs"))
        self._records, per_scope = lists(scopes.field("log_records"))
        scope = owners(per_scope)
        self.resource = owners(per_resource)[scope]
        self.request: I64 = owners(per_request)[self.resource]
        self._scope = pc.fill_null(scopes.field("scope").field("name"), "").take(pa.array(scope))
        self._attributes = Attributes.read(self._records.field("attributes"))
        self._promoted = {column: self._attributes.column(key) for key, column in PROMOTED.items()}
        self._inherit_session()
        self._read_times()

    def __len__(self) -> int:
        return len(self.request)

    @property
    def event_ids(self) -> NDArray[Any]:
        """Ids of events, by which copies are known."""
        found: NDArray[Any] = self._promoted["event_id"].to_numpy(zero_copy_only=False)
        return found

    def table(self, keep: NDArray[np.bool_], seq: I64, received: I64) -> Any:
        """Rows of table `logs` for the items under the mask.

        Args:
            keep: which to store, shape (n,).
            seq: journal position of each request of the batch.
            received: when each request was received; the time of records that tell none.
        """
        index = pa.array(np.flatnonzero(keep))
        records = self._records.take(index)
        first = np.searchsorted(self.request, self.request)
        untimed = self.ts == 0
        ts = np.where(untimed, received[self.request], self.ts)
        columns: dict[str, Any] = {
            "seq": pa.array(seq[self.request][keep]),
            "row": pa.array((np.arange(len(self)) - first)[keep].astype(np.int32)),
            "ts": pa.array(ts[keep]),
            "observed": pa.array(self._observed[keep]),
            "event": records.field("event_name"),
            "severity": pc.cast(records.field("severity_number"), pa.int8(), safe=False),
            "severity_text": records.field("severity_text"),
        }
        columns |= {name: column.take(index) for name, column in self._promoted.items()}
        columns |= {
            "scope": self._scope.take(index),
            "body": value_text(records.field("body")),
            "attributes": self._attributes.without(frozenset(PROMOTED)).take(index.to_numpy()).maps(),
            "resource": pa.array(self.resource_ids[self.resource][keep]),
            "trace_id": records.field("trace_id"),
            "span_id": records.field("span_id"),
        }
        return pa.table(columns)

    def _inherit_session(self) -> None:
        """A session that the resource names holds for its records that name none."""
        if names.SESSION not in self.resources.names:
            return
        own = self._promoted["session"]
        shared = self.resources.column(names.SESSION).take(pa.array(self.resource))
        self._promoted["session"] = pc.if_else(pc.equal(own, ""), shared, own)

    def _read_times(self) -> None:
        ts = self._records.field("time_unix_nano").to_numpy(zero_copy_only=False).astype(np.int64)
        observed = self._records.field("observed_time_unix_nano").to_numpy(zero_copy_only=False)
        self._observed: I64 = observed.astype(np.int64)
        self.ts: I64 = np.where(ts == 0, self._observed, ts)
        self.codes = np.zeros(len(ts), np.uint8)
        self.codes[(self.ts < 0) | (self._observed < 0)] = CODE["time_out_of_range"]


def resource_table(resources: Attributes, ids: U64, index: I64, seq: I64) -> Any:
    """Rows of table `resources` for the resources at the index."""
    return pa.table(
        {
            "resource": pa.array(ids[index]),
            "attributes": resources.take(index).maps(),
            "seq": pa.array(seq),
        }
    )
