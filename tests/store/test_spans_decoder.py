"""Spans and remote write in columns, held against a plain reading of the same bytes; and what nobody should send."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from misstep.core.errors import InputError
from misstep.store import otlp_json
from misstep.store.logs import Logs
from misstep.store.metrics import STALE, Metrics
from misstep.store.otlp import SIGNALS, UndecodableError, malformed
from misstep.store.remote_write import RemoteWrite
from misstep.store.spans import Spans
from misstep.store.verdict import REASONS
from misstep.store.write_request import message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TIMES = st.sampled_from([0, 5, 7, 2**63 - 1, 2**63])
PAIRS = st.dictionaries(
    st.sampled_from(["a", "b", "misstep.session", "service.name", 'q"\\\n']), TEXT, max_size=3
)
IDS = st.sampled_from([16, 16, 16, 8, 0])
READERS = {"metrics": Metrics, "logs": Logs, "traces": Spans, "remote_write": RemoteWrite}


def fill(target: Any, pairs: dict[str, str]) -> None:
    for key, text in pairs.items():
        target.add(key=key).value.string_value = text


@st.composite
def trace_requests(draw: Any) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource = request.resource_spans.add()
        fill(resource.resource.attributes, draw(PAIRS))
        for _ in range(draw(st.integers(0, 2))):
            scope = resource.scope_spans.add()
            scope.scope.name = draw(TEXT)
            for _ in range(draw(st.integers(0, 3))):
                span = scope.spans.add(
                    name=draw(TEXT),
                    kind=draw(st.integers(0, 5)),
                    trace_id=draw(st.sampled_from([b"t", b"\0"])) * draw(IDS),
                    span_id=b"s" * draw(st.sampled_from([8, 8, 8, 1])),
                    start_time_unix_nano=draw(TIMES),
                    end_time_unix_nano=draw(TIMES),
                )
                fill(span.attributes, draw(PAIRS))
                if draw(st.booleans()):
                    span.status.code, span.status.message = draw(st.integers(0, 2)), draw(TEXT)
                for _ in range(draw(st.integers(0, 2))):
                    fill(span.events.add(name=draw(TEXT), time_unix_nano=draw(TIMES)).attributes, draw(PAIRS))
                for _ in range(draw(st.integers(0, 1))):
                    fill(
                        span.links.add(trace_id=b"l" * 16, span_id=draw(st.binary(max_size=2))).attributes,
                        draw(PAIRS),
                    )
    return request


def texts(pairs: Any) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in pairs}


def read_spans(request: ExportTraceServiceRequest, place: int) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for resource in request.resource_spans:
        shared = texts(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                own = texts(span.attributes)
                code = "accepted"
                if len(span.trace_id) != 16 or not any(span.trace_id) or len(span.span_id) != 8:
                    code = "span_ids"
                if max(span.start_time_unix_nano, span.end_time_unix_nano) >= 2**63:
                    code = "time_out_of_range"
                start = span.start_time_unix_nano or 1000 + place
                row = {
                    "seq": 10 + place,
                    "row": len(found),
                    "trace_id": span.trace_id,
                    "span_id": span.span_id,
                    "name": span.name,
                    "kind": span.kind,
                    "service": shared.get("service.name") or "unknown_service",
                    "start": start,
                    "end": max(start, span.end_time_unix_nano),
                    "status": span.status.code,
                    "status_message": span.status.message,
                    "session": own.get("misstep.session") or shared.get("misstep.session", ""),
                    "attributes": {k: v for k, v in own.items() if k != "misstep.session"},
                    "events": [
                        {"ts": e.time_unix_nano, "name": e.name, "attributes": texts(e.attributes)}
                        for e in span.events
                    ],
                    "links": [
                        {
                            "trace_id": link.trace_id.hex(),
                            "span_id": link.span_id.hex(),
                            "attributes": texts(link.attributes),
                        }
                        for link in span.links
                    ],
                    "scope": scope.scope.name,
                }
                found.append((code, row))
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(trace_requests(), min_size=1, max_size=3))
def test_spans_decode_to_what_a_plain_reading_finds(requests: list[ExportTraceServiceRequest]) -> None:
    expected = [row for place, request in enumerate(requests) for row in read_spans(request, place)]
    spans = Spans([request.SerializeToString() for request in requests])
    assert [REASONS[code] for code in spans.codes] == [code for code, _ in expected]
    at = np.arange(len(requests))
    rows = spans.table(spans.codes == 0, at + 10, at + 1000).to_pylist()
    wanted = [row for code, row in expected if code == "accepted"]
    assert len(rows) == len(wanted)
    for row, own in zip(rows, wanted, strict=True):
        row["attributes"] = dict(row["attributes"])
        row["events"], row["links"] = json.loads(row["events"]), json.loads(row["links"])
        assert {key: row[key] for key in own} == own


@st.composite
def write_requests(draw: Any) -> Any:
    request = message()()
    for _ in range(draw(st.integers(0, 3))):
        series = request.timeseries.add()
        for key in draw(st.lists(st.sampled_from(["__name__", "__name__", "a", "b"]), max_size=4)):
            series.labels.add(name=key, value=draw(st.sampled_from(["", "x", "up_total", "x_bucket", "ё"])))
        for _ in range(draw(st.integers(0, 2))):
            series.samples.add(
                timestamp=draw(st.sampled_from([-1, 0, 5, 2**62])),
                value=draw(st.sampled_from([1.5, math.nan, math.inf])),
            )
        for _ in range(draw(st.integers(0, 1))):
            exemplar = series.exemplars.add(timestamp=9, value=draw(st.floats(allow_nan=False)))
            exemplar.labels.add(name="trace_id", value=draw(st.sampled_from(["00ff", "zz"])))
            exemplar.labels.add(name="k", value="v")
        for _ in range(draw(st.integers(0, 1))):
            series.histograms.add(timestamp=1)
    return request


@settings(max_examples=60, deadline=None)
@given(st.lists(write_requests(), min_size=1, max_size=3))
def test_remote_writes_decode_to_what_a_plain_reading_finds(requests: list[Any]) -> None:
    found = RemoteWrite([request.SerializeToString() for request in requests])
    rows = found.define(np.arange(len(found)), np.arange(len(found))).to_pylist()
    expected, exemplars = [], []
    for place, request in enumerate(requests):
        for series in request.timeseries:
            labels = {label.name: label.value for label in series.labels}
            name = labels.pop("__name__", "")
            labels = {key: value for key, value in labels.items() if value}
            stored = False
            for sample in series.samples:
                code = "accepted" if name else "no_name"
                if not 0 <= sample.timestamp <= 2**63 // 10**6:
                    code = "time_out_of_range"
                stored |= code == "accepted"
                expected.append((place, code, name, labels, sample.timestamp * 10**6, sample.value))
            exemplars += [(e.value, e.labels[0].value) for e in series.exemplars if stored]
    assert found.native.tolist() == [sum(len(s.histograms) for s in r.timeseries) for r in requests]
    assert len(found) == len(expected)
    for i, (place, code, name, labels, ts, value) in enumerate(expected):
        assert (found.request[i], REASONS[found.codes[i]]) == (place, code)
        assert (rows[i]["name"], rows[i]["prometheus"], dict(rows[i]["labels"])) == (name, name, labels)
        assert found.value[i] == value or math.isnan(value)
        if code != "time_out_of_range":
            assert found.ts[i] == ts
    table = found.exemplars(found.codes == 0, np.arange(len(found)))
    told = [(r["value"], r["trace_id"]) for r in (table.to_pylist() if table is not None else [])]
    assert told == [(value, b"\x00\xff" if trace == "00ff" else b"") for value, trace in exemplars]


def test_a_stale_sample_of_remote_write_keeps_its_bits() -> None:
    request = message()()
    series = request.timeseries.add()
    series.labels.add(name="__name__", value="m")
    series.samples.add(timestamp=1, value=np.array([STALE], np.uint64).view(np.float64)[0])
    assert RemoteWrite([request.SerializeToString()]).value.view(np.uint64).tolist() == [STALE]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SIGNALS), st.data())
def test_mutated_requests_are_refused_or_read_and_never_more(signal: str, data: Any) -> None:
    """Truncated, with bytes flipped, or fed to the decoder of another signal."""
    source = data.draw(st.sampled_from([trace_requests(), write_requests()]))
    body = bytearray(data.draw(source).SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    payload = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        READERS[signal]([payload])
    except UndecodableError:
        return


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["metrics", "logs", "traces"]), st.data())
def test_any_json_is_read_or_refused_in_words(signal: str, data: Any) -> None:
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["00" * 16, "12"])
    names = st.sampled_from(
        ["resourceSpans", "scopeSpans", "spans", "resourceLogs", "scopeLogs", "logRecords", "resourceMetrics",
         "scopeMetrics", "metrics", "gauge", "dataPoints", "asInt", "traceId", "spanId", "attributes", "key",
         "value", "stringValue", "timeUnixNano", "resource", "body", "events", "kind", "x"]
    )  # fmt: skip
    tree = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
    )
    try:
        found = otlp_json.to_protobuf(signal, json.dumps(data.draw(tree)).encode())
    except InputError:
        return
    assert malformed(signal, found) == ""
    READERS[signal]([found])


@pytest.mark.parametrize("signal", SIGNALS)
def test_recursion_is_refused(signal: str) -> None:
    body = b""
    for _ in range(5000):
        size, head = len(body), b""
        while size > 127:
            head, size = head + bytes([size & 127 | 128]), size >> 7
        body = b"\x0a" + head + bytes([size]) + body
    if malformed(signal, body):
        return
    READERS[signal]([body])
