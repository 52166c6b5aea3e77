"""OTLP protobuf to Arrow, without a Python loop.

ptars decodes a batch of requests into one Arrow record batch. Arrow has no recursive types, so the
descriptor that it gets is a copy of OTLP's in which ``array_value`` and ``kvlist_value`` are bytes
(the same wire type): they arrive whole, and the few that occur are decoded apart.

Format: github.com/open-telemetry/opentelemetry-proto, ``opentelemetry/proto/**``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import ptars
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from misstep.store import write_request

METRICS = "metrics"
LOGS = "logs"
TRACES = "traces"
REMOTE_WRITE = "remote_write"
"""Prometheus' own format: not OTLP, but decoded alike."""
SIGNALS = (METRICS, LOGS, TRACES, REMOTE_WRITE)

_RECURSIVE = ("array_value", "kvlist_value")
_STRIDE = 1024 * 1024
_UNREAD = {
    "AnyValue": ("string_value_strindex",),
    "KeyValue": ("key_strindex",),
    "InstrumentationScope": ("version", "attributes", "dropped_attributes_count"),
    "Resource": ("dropped_attributes_count", "entity_refs"),
    "Metric": ("description", "metadata"),
    "NumberDataPoint": ("start_time_unix_nano",),
    "HistogramDataPoint": ("start_time_unix_nano", "min", "max"),
    "ExponentialHistogramDataPoint": ("start_time_unix_nano", "min", "max"),
    "SummaryDataPoint": ("start_time_unix_nano",),
    "LogRecord": ("dropped_attributes_count", "flags"),
    "Span": (
        "trace_state",
        "flags",
        "dropped_attributes_count",
        "dropped_events_count",
        "dropped_links_count",
    ),
    "Event": ("dropped_attributes_count",),
    "Link": ("trace_state", "flags", "dropped_attributes_count"),
}
"""Fields that nothing is made of; the decoder skips them."""
_REQUESTS: dict[str, Any] = {
    METRICS: metrics_service_pb2.ExportMetricsServiceRequest,
    LOGS: logs_service_pb2.ExportLogsServiceRequest,
    TRACES: trace_service_pb2.ExportTraceServiceRequest,
    REMOTE_WRITE: write_request.message(),
}
_WALK = {
    METRICS: (("resource_metrics", "scope_metrics"), "metrics"),
    LOGS: (("resource_logs", "scope_logs"), "log_records"),
    TRACES: (("resource_spans", "scope_spans"), "spans"),
}
_FILES = (
    common_pb2,
    resource_pb2,
    metrics_pb2,
    logs_pb2,
    trace_pb2,
    metrics_service_pb2,
    logs_service_pb2,
    trace_service_pb2,
)


class UndecodableError(ValueError):
    """At least one payload of the batch cannot be decoded; which one is not known."""


def decode(signal: str, payloads: list[bytes]) -> Any:
    """Decode requests into a list array: one row per request, holding its resources.

    Raises:
        UndecodableError: at least one of them is damaged.
    """
    try:
        batch = _handler(signal).array_to_record_batch(pa.array(payloads, type=pa.binary()))
    except (ValueError, pa.ArrowException) as error:
        raise UndecodableError(str(error)) from error
    return batch.column(0)


def crowded(payload: bytes, limit: int) -> bool:
    """Whether so many fields of a message hold next to nothing that parsing it would take memory out of proportion.

    A message of two bytes becomes an object of 64 or more. A field that holds others begins with a tag whose wire type
    is 2 and its length; those of fewer than 8 bytes are counted wherever such a pair of bytes stands, which is never
    less than there are. What holds more has ten bytes at least: there are few enough.
    """
    if len(payload) <= 2 * limit:
        return False
    x = np.frombuffer(payload, np.uint8)
    found = 0
    for start in range(0, len(x) - 1, _STRIDE):
        part = x[start : start + _STRIDE + 1]
        found += int(np.count_nonzero((part[:-1] & 7 == 2) & (part[1:] < 8)))
    return found > limit


def malformed(signal: str, payload: bytes) -> str:
    """Why protobuf's own parser refuses the payload; empty if it does not."""
    try:
        _REQUESTS[signal].FromString(payload)
    except DecodeError as error:
        return str(error) or "not such a message"
    return ""


def too_many(signal: str, payload: bytes, limit: int) -> bool:
    """Whether a well-formed payload holds more items than the limit: points with their buckets, records, spans.

    The smallest item takes two bytes, so nearly every request is too small to be looked at. One that is large is
    parsed and walked, before far larger columns are made of it.
    """
    if len(payload) <= 2 * limit:
        return False
    found = 0
    for size in _sizes(signal, _REQUESTS[signal].FromString(payload)):
        found += size
        if found > limit:
            return True
    return False


def _sizes(signal: str, request: Any) -> Iterator[int]:
    """Numbers that add up to the items of a request; containers count too, so that none are free."""
    if signal == REMOTE_WRITE:
        for series in request.timeseries:
            yield 1 + len(series.samples) + len(series.exemplars)
        return
    scopes, items = _WALK[signal]
    for resource in getattr(request, scopes[0]):
        yield 1
        for scope in getattr(resource, scopes[1]):
            yield 1 + len(getattr(scope, items))
            if signal == METRICS:
                for metric in scope.metrics:
                    yield from _points(metric)


def _points(metric: Any) -> Iterator[int]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    points = getattr(metric, kind).data_points
    yield len(points)
    if kind == "histogram":
        yield from (len(point.bucket_counts) for point in points)
    elif kind == "exponential_histogram":
        yield from (len(p.positive.bucket_counts) + len(p.negative.bucket_counts) for p in points)
    elif kind == "summary":
        yield from (len(point.quantile_values) for point in points)


@functools.cache
def _handler(signal: str) -> Any:
    pool = _pool()
    name = _REQUESTS[signal].DESCRIPTOR
    handlers = ptars.HandlerPool([pool.FindFileByName(name.file.name)])
    return handlers.get_for_message(pool.FindMessageTypeByName(name.full_name))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in _FILES:
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        file.ClearField("service")
        if module is common_pb2:
            _cut_recursion(file)
        for message in file.message_type:
            _leave_unread(message)
        pool.Add(file)
    pool.Add(write_request.file())
    return pool


def message_of(signal: str) -> Any:
    """An empty request of the signal, as published."""
    return _REQUESTS[signal]()


def _leave_unread(message: Any) -> None:
    unread = _UNREAD.get(message.name, ())
    kept = [f for f in message.field if f.name not in unread]
    if len(kept) < len(message.field):
        # `optional` makes a oneof of its own for each field; one without a field is refused.
        used = sorted({f.oneof_index for f in kept if f.HasField("oneof_index")})
        oneofs = [message.oneof_decl[index] for index in used]
        del message.oneof_decl[:]
        message.oneof_decl.extend(oneofs)
        for field in kept:
            if field.HasField("oneof_index"):
                field.oneof_index = used.index(field.oneof_index)
        del message.field[:]
        message.field.extend(kept)
    for nested in message.nested_type:
        _leave_unread(nested)


def _cut_recursion(file: Any) -> None:
    for message in file.message_type:
        if message.name != "AnyValue":
            continue
        for field in message.field:
            if field.name in _RECURSIVE:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
    kept = [m for m in file.message_type if m.name not in ("ArrayValue", "KeyValueList")]
    del file.message_type[:]
    file.message_type.extend(kept)
