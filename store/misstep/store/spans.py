"""Spans of OTLP as columns: one item per span."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core import names
from misstep.store import otlp
from misstep.store.attributes import Attributes
from misstep.store.columns import I64, lists, mix, owners
from misstep.store.verdict import CODE

UNKNOWN_SERVICE = "unknown_service"
"""The service of a resource that names none, as the semantic conventions have it."""

_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_PROMOTED = frozenset({names.SESSION})


class Spans:
    """The spans of a batch of requests, ordered by request.

    Attributes:
        request: index of the request in the batch, shape (n,).
        codes: why a span cannot be stored by its own shape, 0 if it can.
        resources: attributes of each resource, with `resource_ids`.
        resource: index of each span's resource.
    """

    def __init__(self, payloads: list[bytes]) -> None:
        """Decode.

        Raises:
            UndecodableError: one of them is damaged.
        """
        resources, per_request = lists(otlp.decode(otlp.TRACES, payloads))
        self.resources = Attributes.read(resources.field("resource").field("attributes"))
        self.resource_ids = mix(self.resources.pair_sums())
        scopes, per_resource = lists(resources.field("scope_spans"))
        self._spans, per_scope = lists(scopes.field("spans"))
        scope = owners(per_scope)
        self.resource = owners(per_resource)[scope]
        self.request: I64 = owners(per_request)[self.resource]
        self._scope = pc.fill_null(scopes.field("scope").field("name"), "").take(pa.array(scope))
        self._attributes = Attributes.read(self._spans.field("attributes"))
        self._start, self._end = self._time("start_time_unix_nano"), self._time("end_time_unix_nano")
        self._judge()

    def __len__(self) -> int:
        return len(self.request)

    def table(self, keep: NDArray[np.bool_], seq: I64, received: I64) -> Any:
        """Rows of table `spans` for the items under the mask.

        Args:
            keep: which to store, shape (n,).
            seq: journal position of each request of the batch.
            received: when each request was received; the start of spans that tell none.
        """
        at = np.flatnonzero(keep)
        index, spans = pa.array(at), self._spans.take(pa.array(at))
        attributes, resource = self._attributes.take(at), pa.array(self.resource[at])
        first = np.searchsorted(self.request, self.request)
        start = np.where(self._start == 0, received[self.request], self._start)[at]
        service = self.resources.column(names.SERVICE).take(resource)
        shared, own = self.resources.column(names.SESSION).take(resource), attributes.column(names.SESSION)
        status = spans.field("status")
        return pa.table(
            {
                "seq": pa.array(seq[self.request][at]),
                "row": pa.array((np.arange(len(self)) - first)[at].astype(np.int32)),
                "trace_id": spans.field("trace_id"),
                "span_id": spans.field("span_id"),
                "parent_span_id": spans.field("parent_span_id"),
                "name": spans.field("name"),
                "kind": pc.cast(spans.field("kind"), pa.int8(), safe=False),
                "service": pc.if_else(pc.equal(service, ""), UNKNOWN_SERVICE, service),
                "start": pa.array(start),
                "end": pa.array(np.maximum(self._end[at], start)),
                "status": pc.cast(pc.fill_null(status.field("code"), 0), pa.int8(), safe=False),
                "status_message": pc.fill_null(status.field("message"), ""),
                "session": pc.if_else(pc.equal(own, ""), shared, own),
                "attributes": attributes.without(_PROMOTED).maps(),
                "events": _events(spans.field("events")),
                "links": _links(spans.field("links")),
                "scope": self._scope.take(index),
                "resource": pa.array(self.resource_ids[self.resource[at]]),
            }
        )

    def _time(self, name: str) -> I64:
        found: I64 = self._spans.field(name).to_numpy(zero_copy_only=False).astype(np.int64)
        return found

    def _judge(self) -> None:
        """An id of the wrong length or of zeros is invalid, and both are required (opentelemetry/proto/trace/v1)."""
        self.codes = np.zeros(len(self.request), np.uint8)
        for name, size in (("trace_id", _TRACE_ID_BYTES), ("span_id", _SPAN_ID_BYTES)):
            ids = self._spans.field(name)
            wrong = pc.or_(pc.not_equal(pc.binary_length(ids), size), pc.equal(ids, bytes(size)))
            self.codes[wrong.to_numpy(zero_copy_only=False)] = CODE["span_ids"]
        self.codes[(self._start < 0) | (self._end < 0)] = CODE["time_out_of_range"]


def _events(array: Any) -> Any:
    """Lists of ``Span.Event`` as JSON: ``[{"ts": …, "name": …, "attributes": {…}}]``."""
    events, offsets = lists(array)
    items = pc.binary_join_element_wise(
        '{"ts":', pc.cast(events.field("time_unix_nano"), pa.string()),
        ',"name":', _words(events.field("name"), _text),
        ',"attributes":', _object(Attributes.read(events.field("attributes"))), "}", "",
    )  # fmt: skip
    return _joined(items, offsets, "[", "]")


def _links(array: Any) -> Any:
    """Lists of ``Span.Link`` as JSON: ``[{"trace_id": hex, "span_id": hex, "attributes": {…}}]``."""
    links, offsets = lists(array)
    items = pc.binary_join_element_wise(
        '{"trace_id":', _words(links.field("trace_id"), _hex),
        ',"span_id":', _words(links.field("span_id"), _hex),
        ',"attributes":', _object(Attributes.read(links.field("attributes"))), "}", "",
    )  # fmt: skip
    return _joined(items, offsets, "[", "]")


def _object(attributes: Attributes) -> Any:
    """The attributes of each owner as a JSON object of strings."""
    keys = pa.array([_text(name) for name in attributes.names], pa.string()).take(pa.array(attributes.codes))
    pairs = pc.binary_join_element_wise(keys, _words(attributes.text, _text), ":")
    return _joined(pairs, attributes.offsets, "{", "}")


def _joined(items: Any, offsets: I64, opening: str, closing: str) -> Any:
    """Strings in lists as one string for each list, with commas between them."""
    nested = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items)
    return pc.binary_join_element_wise(opening, pc.binary_join(nested, ","), closing, "")


def _words(array: Any, write: Any) -> Any:
    """Each value written by a function that is asked once for each distinct one."""
    encoded = array.dictionary_encode()
    words = pa.array([write(word) for word in encoded.dictionary.to_pylist()], pa.string())
    return words.take(encoded.indices)


def _text(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)


def _hex(word: bytes) -> str:
    return f'"{word.hex()}"'
