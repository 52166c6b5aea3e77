"""OTLP requests of any shape, as Hypothesis draws them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from misstep.core import names

KEYS = st.sampled_from(
    [
        "a",
        "b",
        "host.name",
        "service.name",
        "service.namespace",
        "service.instance.id",
        "le",
        "job",
        names.SESSION,
        names.ENTITY,
        names.STATE,
        names.EVENT_ID,
        "ключ",
        "",
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TIMES = st.one_of(st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]), st.integers(0, 2**63 - 1))


@st.composite
def any_values(draw: Any, depth: int = 2) -> AnyValue:
    kinds = ["unset", "string", "int", "double", "bool", "bytes"] + (["array", "map"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    value = AnyValue()
    if kind == "string":
        value.string_value = draw(TEXT)
    elif kind == "int":
        value.int_value = draw(st.integers(-(2**63), 2**63 - 1))
    elif kind == "double":
        value.double_value = draw(st.floats())
    elif kind == "bool":
        value.bool_value = draw(st.booleans())
    elif kind == "bytes":
        value.bytes_value = draw(st.binary(max_size=4))
    elif kind == "array":
        value.array_value.SetInParent()
        value.array_value.values.extend(draw(st.lists(any_values(depth - 1), max_size=2)))
    elif kind == "map":
        value.kvlist_value.SetInParent()
        value.kvlist_value.values.extend(draw(st.lists(key_values(depth - 1), max_size=2)))
    return value


@st.composite
def key_values(draw: Any, depth: int = 2) -> KeyValue:
    pair = KeyValue(key=draw(KEYS))
    value = draw(any_values(depth))
    if value.WhichOneof("value") or draw(st.booleans()):
        pair.value.CopyFrom(value)
    return pair


ATTRIBUTES = st.lists(key_values(), max_size=5)


@st.composite
def metrics_requests(draw: Any) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource = request.resource_metrics.add()
        if draw(st.booleans()):
            resource.resource.attributes.extend(draw(ATTRIBUTES))
        for _ in range(draw(st.integers(0, 2))):
            scope = resource.scope_metrics.add()
            for _ in range(draw(st.integers(0, 3))):
                _metric(draw, scope.metrics.add(name=draw(st.sampled_from(["m", "n", ""])), unit="By"))
    return request


EXEMPLARS = st.integers(0, 2)
COUNTS = st.integers(0, 2**40)
BOUNDS = st.lists(st.sampled_from([-1.0, 0.0, 0.005, 1.0, 10.0, 1e21, math.inf, math.nan]), max_size=4)


def _metric(draw: Any, metric: Any) -> None:
    kind = draw(st.sampled_from(["gauge", "sum", "histogram", "exponential_histogram", "summary", "none"]))
    if kind == "none":
        return
    data = getattr(metric, kind)
    if kind not in ("gauge", "summary"):
        data.aggregation_temporality = draw(st.sampled_from([0, 1, 2, 2, 2]))
    if kind == "sum":
        data.is_monotonic = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        point = data.data_points.add(time_unix_nano=draw(TIMES), flags=draw(st.sampled_from([0, 0, 1])))
        point.attributes.extend(draw(ATTRIBUTES))
        _FILL[kind](draw, point)
        if kind != "summary":
            for _ in range(draw(EXEMPLARS)):
                _number(draw, point.exemplars.add(time_unix_nano=7, trace_id=draw(st.binary(max_size=2))))


def _number(draw: Any, point: Any) -> None:
    shape = draw(st.sampled_from(["double", "int", "unset"]))
    if shape == "double":
        point.as_double = draw(st.floats())
    elif shape == "int":
        point.as_int = draw(st.integers(-(2**63), 2**63 - 1))


def _explicit(draw: Any, point: Any) -> None:
    bounds = draw(
        st.one_of(
            BOUNDS, BOUNDS.map(sorted), BOUNDS.map(lambda b: sorted({x for x in b if not math.isnan(x)}))
        )
    )
    point.explicit_bounds.extend(bounds)
    size = draw(st.sampled_from([0, len(bounds) + 1, len(bounds) + 1, len(bounds) + 1, 2]))
    point.bucket_counts.extend(draw(st.lists(COUNTS, min_size=size, max_size=size)))
    point.count = draw(COUNTS)
    if draw(st.booleans()):
        point.sum = draw(st.floats())


def _exponential(draw: Any, point: Any) -> None:
    point.scale = draw(st.sampled_from([-12, -1, 0, 3, 20, 49]))
    point.zero_count, point.count = draw(COUNTS), draw(COUNTS)
    point.zero_threshold = draw(st.sampled_from([0.0, 0.0, 1.0, math.nan]))
    for side in (point.positive, point.negative):
        if draw(st.booleans()):
            side.offset = draw(st.integers(-3, 3) | st.just(-(2**31)) | st.just(2**31 - 1))
            side.bucket_counts.extend(draw(st.lists(COUNTS, max_size=3)))
    if draw(st.booleans()):
        point.sum = draw(st.floats())


def _summary(draw: Any, point: Any) -> None:
    point.count, point.sum = draw(COUNTS), draw(st.floats())
    for quantile in draw(st.lists(st.sampled_from([0.0, 0.5, 0.99, 1.0, math.nan]), max_size=3, unique=True)):
        point.quantile_values.add(quantile=quantile, value=draw(st.floats()))


_FILL = {
    "gauge": _number,
    "sum": _number,
    "histogram": _explicit,
    "exponential_histogram": _exponential,
    "summary": _summary,
}


@st.composite
def logs_requests(draw: Any) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource = request.resource_logs.add()
        if draw(st.booleans()):
            resource.resource.attributes.extend(draw(ATTRIBUTES))
        for _ in range(draw(st.integers(0, 2))):
            scope = resource.scope_logs.add()
            scope.scope.name = draw(TEXT)
            for _ in range(draw(st.integers(0, 3))):
                record = scope.log_records.add(
                    time_unix_nano=draw(TIMES),
                    observed_time_unix_nano=draw(TIMES),
                    severity_number=draw(st.integers(0, 24)),
                    event_name=draw(st.sampled_from(["", "e", "f"])),
                    trace_id=draw(st.binary(max_size=2)),
                )
                record.attributes.extend(draw(ATTRIBUTES))
                if draw(st.booleans()):
                    record.body.CopyFrom(draw(any_values()))
    return request
