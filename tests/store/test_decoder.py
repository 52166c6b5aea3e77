"""The columnar decoder, held against a plain reading of the same bytes with opentelemetry-proto."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from misstep.core import names
from misstep.store.logs import PROMOTED, Logs
from misstep.store.metrics import RESOURCE_LABELS, STALE, Metrics
from misstep.store.otlp import UndecodableError
from misstep.store.verdict import REASONS

KEYS = st.sampled_from(
    [
        "a",
        "b",
        "host.name",
        "service.name",
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


def _metric(draw: Any, metric: Any) -> None:
    kind = draw(st.sampled_from(["gauge", "sum", "histogram", "summary", "none"]))
    if kind == "none":
        return
    if kind in ("histogram", "summary"):
        getattr(metric, kind).data_points.add(count=3)
        return
    if kind == "sum":
        metric.sum.aggregation_temporality = draw(st.sampled_from([0, 1, 2, 2, 2]))
        metric.sum.is_monotonic = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        point = getattr(metric, kind).data_points.add(
            time_unix_nano=draw(TIMES), flags=draw(st.sampled_from([0, 0, 1]))
        )
        point.attributes.extend(draw(ATTRIBUTES))
        shape = draw(st.sampled_from(["double", "int", "unset"]))
        if shape == "double":
            point.as_double = draw(st.floats())
        elif shape == "int":
            point.as_int = draw(st.integers(-(2**63), 2**63 - 1))


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


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind) if kind else None


def text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    found = plain(value)
    if kind is None:
        return ""
    if kind == "bool_value":
        return "true" if found else "false"
    if kind in ("array_value", "kvlist_value"):
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return found if isinstance(found, str) else repr(found)


def texts(pairs: Any) -> dict[str, str]:
    return {pair.key: text(pair.value) for pair in pairs}


def code(point: Any, metric: Any) -> str:
    if metric.HasField("sum") and metric.sum.aggregation_temporality != 2:
        return "delta_temporality"
    if point.time_unix_nano >= 2**63:
        return "time_out_of_range"
    if point.WhichOneof("value") is None and not point.flags & 1:
        return "no_value"
    return "accepted"


def value_of(point: Any) -> float:
    if point.flags & 1:
        return math.nan
    kind = point.WhichOneof("value")
    return float(getattr(point, kind)) if kind else 0.0


def read_metrics(index: int, request: ExportMetricsServiceRequest) -> list[tuple[Any, ...]]:
    """What a plain reading finds: gauges first, then sums, each in the order of the request."""
    gauges: list[tuple[Any, ...]] = []
    sums: list[tuple[Any, ...]] = []
    for resource in request.resource_metrics:
        shared = texts(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for points, found in ((metric.gauge.data_points, gauges), (metric.sum.data_points, sums)):
                    for point in points:
                        labels = {k: v for k, v in shared.items() if k in RESOURCE_LABELS} | texts(
                            point.attributes
                        )
                        ts = point.time_unix_nano if point.time_unix_nano < 2**63 else -1
                        found.append((index, metric.name, labels, ts, value_of(point), code(point, metric)))
    return gauges + sums


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(max_examples=120, deadline=None)
@given(st.lists(metrics_requests(), min_size=1, max_size=3))
def test_metrics_decode_to_what_a_plain_reading_finds(requests: list[ExportMetricsServiceRequest]) -> None:
    expected = [row for i, request in enumerate(requests) for row in read_metrics(i, request)]
    metrics = Metrics([request.SerializeToString() for request in requests])
    assert len(metrics) == len(expected)
    rows = metrics.define(np.arange(len(metrics)), np.zeros(len(metrics), np.int64)).to_pylist()
    identities: dict[int, tuple[str, frozenset[tuple[str, str]]]] = {}
    for i, (request, name, labels, ts, value, reason) in enumerate(expected):
        assert metrics.request[i] == request
        assert (rows[i]["name"], dict(rows[i]["labels"])) == (name, labels)
        assert (metrics.ts[i] if metrics.ts[i] >= 0 else -1) == ts
        assert same(metrics.value[i], value)
        assert REASONS[metrics.codes[i]] == reason
        assert metrics.labels_per_point()[i] == len(labels)
        assert metrics.longest_label()[i] == max((len(v.encode()) for v in labels.values()), default=0)
        identity = (name, frozenset(labels.items()))
        assert identities.setdefault(int(metrics.series[i]), identity) == identity
    assert len(identities) == len(set(identities.values())), "one identity has two ids"
    unsupported = [
        sum(
            len(m.histogram.data_points) + len(m.summary.data_points)
            for r in q.resource_metrics
            for s in r.scope_metrics
            for m in s.metrics
        )
        for q in requests
    ]
    assert metrics.unsupported.tolist() == unsupported


@settings(max_examples=120, deadline=None)
@given(st.lists(logs_requests(), min_size=1, max_size=3))
def test_logs_decode_to_what_a_plain_reading_finds(requests: list[ExportLogsServiceRequest]) -> None:
    logs = Logs([request.SerializeToString() for request in requests])
    seq, received = np.arange(len(requests)) + 10, np.arange(len(requests)) + 1000
    keep = logs.codes == 0
    rows = logs.table(keep, seq, received).to_pylist()
    expected = []
    for i, request in enumerate(requests):
        position = 0
        for resource in request.resource_logs:
            shared = texts(resource.resource.attributes).get(names.SESSION, "")
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    found = _plain_log(record, shared, i, position)
                    position += 1
                    if record.observed_time_unix_nano < 2**63 and found["ts"] < 2**63:
                        expected.append(found | {"scope": scope.scope.name})
    assert len(rows) == len(expected) == int(keep.sum())
    for row, wanted in zip(rows, expected, strict=True):
        row["attributes"] = dict(row["attributes"])
        assert {key: row[key] for key in wanted} == wanted


def _plain_log(record: Any, session: str, request: int, position: int) -> dict[str, Any]:
    attributes = texts(record.attributes)
    promoted = {column: attributes.get(key, "") for key, column in PROMOTED.items()}
    return {
        **promoted,
        "session": promoted["session"] or session,
        "seq": request + 10,
        "row": position,
        "ts": record.time_unix_nano or record.observed_time_unix_nano or request + 1000,
        "event": record.event_name,
        "severity": record.severity_number,
        "body": text(record.body),
        "attributes": {k: v for k, v in attributes.items() if k not in PROMOTED},
        "trace_id": record.trace_id,
    }


@settings(max_examples=60, deadline=None)
@given(metrics_requests(), st.randoms(use_true_random=False))
def test_series_ids_do_not_depend_on_the_order_of_labels(
    request: ExportMetricsServiceRequest, random: Any
) -> None:
    turned = ExportMetricsServiceRequest()
    turned.CopyFrom(request)
    for resource in turned.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in [*metric.gauge.data_points, *metric.sum.data_points]:
                    pairs = list({pair.key: pair for pair in point.attributes}.values())
                    random.shuffle(pairs)
                    copies = [KeyValue.FromString(pair.SerializeToString()) for pair in pairs]
                    del point.attributes[:]
                    point.attributes.extend(copies)
    first, second = Metrics([request.SerializeToString()]), Metrics([turned.SerializeToString()])
    assert first.series.tolist() == second.series.tolist()


def test_series_ids_are_part_of_the_stored_format() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="process.memory.usage")
    point = metric.gauge.data_points.add(as_double=1.0)
    point.attributes.add(key="process.pid").value.int_value = 7
    point.attributes.add(key="host.name").value.string_value = "h"
    metrics = Metrics([request.SerializeToString()])
    assert (metrics.metric[0], metrics.series[0]) == (1202497751, 9863959297373996503)


def test_points_without_a_recorded_value_are_marked_stale() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.gauge.data_points.add(flags=1, time_unix_nano=5)
    metrics = Metrics([request.SerializeToString()])
    assert metrics.value.view(np.uint64).tolist() == [STALE]
    assert metrics.codes.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60))
def test_damaged_bytes_never_do_more_than_fail_to_decode(data: bytes) -> None:
    for read in (Metrics, Logs):
        try:
            read([data])
        except UndecodableError:
            continue


def test_deep_nesting_is_kept_as_text() -> None:
    value = AnyValue(string_value="x")
    for _ in range(40):
        outer = AnyValue()
        outer.array_value.values.append(value)
        value = outer
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.attributes.add(key="k").value.CopyFrom(value)
    row = (
        Logs([request.SerializeToString()])
        .table(np.ones(1, bool), np.ones(1, int), np.ones(1, int))
        .to_pylist()[0]
    )
    assert dict(row["attributes"])["k"] == "[" * 40 + '"x"' + "]" * 40


@pytest.mark.parametrize("payloads", [[b""], [b"", b""]])
def test_an_empty_request_holds_nothing(payloads: list[bytes]) -> None:
    assert len(Metrics(payloads)) == 0
    assert len(Logs(payloads)) == 0
