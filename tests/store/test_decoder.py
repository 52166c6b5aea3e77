"""The columnar decoder, held against a plain reading of the same bytes with opentelemetry-proto."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from tests.store.drawn_requests import logs_requests, metrics_requests
from tests.store.plain_reading import FAMILIES, read_metrics, text, texts

from misstep.core import names
from misstep.store.logs import PROMOTED, Logs
from misstep.store.metrics import STALE, Metrics
from misstep.store.otlp import UndecodableError
from misstep.store.verdict import REASONS


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
