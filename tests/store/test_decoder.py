"""The columnar decoder, held against a plain reading of the same bytes with opentelemetry-proto."""

from __future__ import annotations

import base64
import itertools
import json
import math
from typing import Any, NamedTuple

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
from misstep.store.translation import metric_name
from misstep.store.verdict import REASONS

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


FAMILIES = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


class Sample(NamedTuple):
    """One sample as a plain reading finds it."""

    name: str
    prometheus: str
    kind: str
    labels: dict[str, str]
    ts: int
    value: float


class Point(NamedTuple):
    """One data point, why it is rejected, and what it becomes if it is not."""

    request: int
    code: str
    samples: list[Sample]
    exemplars: list[tuple[str, float]]


def le(bound: float) -> str:
    if math.isinf(bound):
        return "+Inf"
    found = f"{bound:.30f}" if abs(bound) < 1e21 and bound == int(bound) else repr(bound)
    return found.rstrip("0").rstrip(".") if "." in found else found


def exponential_buckets(point: Any) -> list[tuple[float, int]]:
    """Cumulative counts by upper bound, walked bucket by bucket."""

    def base(index: int) -> float:
        exponent = index * 2.0**-point.scale
        return math.inf if exponent >= 1024 else float(2.0**exponent)

    found: list[tuple[float, int]] = []
    seen = 0
    negative = list(enumerate(point.negative.bucket_counts, point.negative.offset))
    if negative:
        found.append((-base(negative[-1][0] + 1), 0))
    for index, count in reversed(negative):
        seen += count
        found.append((-base(index), seen))
    seen += point.zero_count
    positive = list(enumerate(point.positive.bucket_counts, point.positive.offset))
    if positive:
        found.append((base(positive[0][0]), seen))
    middle = seen
    for index, count in positive:
        seen += count
        found.append((base(index + 1), seen))
    told = [(b, c) for b, c in found if point.zero_threshold < abs(b) < math.inf]
    return [*told, (point.zero_threshold, middle)]


def buckets_of(kind: str, point: Any) -> list[tuple[float, int]] | None:
    """Upper bounds and cumulative counts, +Inf last; None where they do not hold together."""
    if kind == "exponential_histogram":
        if not -48 <= point.scale <= 48 or math.isnan(point.zero_threshold):
            return None
        return [*exponential_buckets(point), (math.inf, point.count)]
    bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
    rising = all(a < b for a, b in itertools.pairwise(bounds)) and not any(map(math.isnan, bounds))
    if not rising or (counts and len(counts) != len(bounds) + 1):
        return None
    sums = itertools.accumulate(counts[:-1])
    finite = [(b, c) for b, c in zip(bounds, sums, strict=False) if math.isfinite(b)] if counts else []
    return [*finite, (math.inf, point.count)]


def read_point(index: int, kind: str, metric: Any, point: Any, resource: dict[str, str]) -> Point:
    data = getattr(metric, kind)
    shared = {k: v for k, v in resource.items() if k in RESOURCE_LABELS} | identity(resource)
    labels = shared | texts(point.attributes)
    if kind in ("histogram", "exponential_histogram", "summary"):
        labels = shared | {k: v for k, v in texts(point.attributes).items() if k not in ("le", "quantile")}
    stale = bool(point.flags & 1)
    temporality = getattr(data, "aggregation_temporality", 2)
    stored = {"gauge": "gauge", "summary": "summary", "sum": "sum"}.get(kind, "histogram")
    if kind == "sum" and not data.is_monotonic:
        stored = "sum_non_monotonic"
    if temporality == 1:
        stored = "delta"
    grows = kind == "sum" and data.is_monotonic
    prometheus = metric_name(metric.name, metric.unit, "sum" if grows else "gauge" if kind == "gauge" else "")
    found: list[Sample] = []
    code = ""

    def add(suffix: str, value: float, **more: str) -> None:
        told = math.nan if stale else float(value)
        found.append(
            Sample(
                metric.name + suffix, prometheus + suffix.replace(".", "_"), stored, labels | more,
                point.time_unix_nano, told,
            )
        )  # fmt: skip

    told_exemplars: list[tuple[str, float]] = []
    buckets: list[tuple[float, int]] | None = []
    if kind in ("gauge", "sum"):
        field = point.WhichOneof("value")
        add("", float(getattr(point, field)) if field else 0.0)
        code = "" if field or stale else "no_value"
    elif kind == "summary":
        for pair in point.quantile_values:
            add("", pair.value, quantile=le(pair.quantile))
        if any(math.isnan(pair.quantile) for pair in point.quantile_values):
            code = "bucket_shape"
    else:
        buckets = buckets_of(kind, point)
        if buckets is None:
            code = "bucket_shape"
        for bound, count in buckets or []:
            add(".bucket", count, le=le(bound))
    if kind not in ("gauge", "sum") and not code:
        if stale or kind == "summary" or point.HasField("sum"):
            add(".sum", point.sum)
        add(".count", point.count)
    for exemplar in getattr(point, "exemplars", ()):
        field = exemplar.WhichOneof("value")
        if field:
            value = float(getattr(exemplar, field))
            bound = min((b for b, _ in buckets or [] if b >= value), default=math.inf)
            told_exemplars.append((le(bound) if buckets else labels.get("le", ""), value))
    if temporality not in (1, 2):
        code = "unspecified_temporality"
    if point.time_unix_nano >= 2**63:
        code = "time_out_of_range"
    return Point(index, code or "accepted", found, told_exemplars)


def identity(resource: dict[str, str]) -> dict[str, str]:
    service, space = resource.get("service.name", ""), resource.get("service.namespace", "")
    job = f"{space}/{service}" if space and service else service
    found = {"job": job, "instance": resource.get("service.instance.id", "")}
    return {key: value for key, value in found.items() if value}


def read_metrics(index: int, request: ExportMetricsServiceRequest) -> list[Point]:
    """What a plain reading finds, family by family, each in the order of the request."""
    found = []
    known: set[int] = set()
    for kind in FAMILIES:
        for place, resource in enumerate(request.resource_metrics):
            own = texts(resource.resource.attributes)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in getattr(metric, kind).data_points:
                        one = read_point(index, kind, metric, point, own)
                        rest = {k: v for k, v in own.items() if k not in IDENTITY}
                        if place not in known and rest and identity(own):
                            value = math.nan if point.flags & 1 else 1.0
                            target = Sample(
                                "target_info", "target_info", "gauge", rest | identity(own),
                                point.time_unix_nano, value,
                            )  # fmt: skip
                            one.samples.append(target)
                        known.add(place)
                        found.append(one)
    return found


IDENTITY = ("service.name", "service.namespace", "service.instance.id")


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@settings(max_examples=60, deadline=None)
@given(st.lists(metrics_requests(), min_size=1, max_size=3))
def test_metrics_decode_to_what_a_plain_reading_finds(requests: list[ExportMetricsServiceRequest]) -> None:
    expected = [point for i, request in enumerate(requests) for point in read_metrics(i, request)]
    metrics = Metrics([request.SerializeToString() for request in requests])
    assert metrics.request.tolist() == [point.request for point in expected]
    assert [REASONS[code] for code in metrics.codes] == [point.code for point in expected]
    every = np.arange(len(metrics.point))
    rows = metrics.define(every, np.zeros(len(every), np.int64)).to_pylist()
    identities: dict[int, tuple[str, frozenset[tuple[str, str]]]] = {}
    for place, point in enumerate(expected):
        own = np.flatnonzero(metrics.point == place)
        if point.code == "bucket_shape" or point.code == "time_out_of_range":
            continue
        found = [(rows[i], int(metrics.ts[i]), float(metrics.value[i])) for i in own]
        key = lambda row: (row[0], sorted(row[3].items()))
        told = sorted(
            ((r["name"], r["prometheus"], r["kind"], dict(r["labels"]), ts, v) for r, ts, v in found), key=key
        )
        wanted = sorted(point.samples, key=key)
        assert [row[:5] for row in told] == [tuple(row[:5]) for row in wanted]
        assert all(same(a[5], b.value) for a, b in zip(told, wanted, strict=True)), (told, wanted)
        for i in own:
            row = rows[i]
            pair = (row["name"], frozenset(row["labels"]))
            assert identities.setdefault(int(metrics.series[i]), pair) == pair
        labels = [s.labels for s in wanted if s.name != "target_info"]
        assert metrics.labels_per_point()[place] >= max((len(l) for l in labels), default=0)
    assert len(identities) == len(set(identities.values())), "one identity has two ids"


@settings(max_examples=30, deadline=None)
@given(st.lists(metrics_requests(), min_size=1, max_size=2))
def test_exemplars_belong_to_the_bucket_that_counted_them(
    requests: list[ExportMetricsServiceRequest],
) -> None:
    expected = [point for i, request in enumerate(requests) for point in read_metrics(i, request)]
    metrics = Metrics([request.SerializeToString() for request in requests])
    keep = metrics.codes == 0
    table = metrics.exemplars(keep, np.arange(len(metrics)))
    every = np.arange(len(metrics.point))
    labels = {r["series_id"]: dict(r["labels"]) for r in metrics.define(every, every).to_pylist()}
    found = [
        (row["seq"], labels[row["series_id"]].get("le", ""), row["value"])
        for row in (table.to_pylist() if table is not None else [])
    ]
    wanted = [
        (place, bound, value)
        for place, point in enumerate(expected)
        if point.code == "accepted"
        for bound, value in point.exemplars
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, wanted)), (found, wanted)


@settings(max_examples=60, deadline=None)
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
                for point in itertools.chain(*(getattr(metric, kind).data_points for kind in FAMILIES)):
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
