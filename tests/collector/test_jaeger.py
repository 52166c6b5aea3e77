"""Jaeger's API as Grafana and Jaeger's own page ask it, over HTTP."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE = bytes(range(16))
OTHER = bytes(range(1, 17))
MS = 1_000_000


@pytest.fixture(scope="module")
def base(collector: Any) -> int:
    """A trace of two services, and one of one; when the first began, Unix nanoseconds."""
    first = (time.time_ns() // 10**9 - 60) * 10**9
    request = ExportTraceServiceRequest()
    for service, spans in (
        ("front/end", [(TRACE, 1, 0, "GET /", 2, first, 100 * MS, 0), (OTHER, 9, 0, "GET /slow", 2, first + 10**9, 5000 * MS, 0)]),
        ("model", [(TRACE, 2, 1, "infer", 3, first + 10 * MS, 50 * MS, 2)]),
    ):  # fmt: skip
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = service
        group.resource.attributes.add(key="host.name").value.string_value = "node-1"
        scope = group.scope_spans.add()
        scope.scope.name = "lib"
        for trace, id, parent, name, kind, start, took, status in spans:
            span = scope.spans.add(
                trace_id=trace, span_id=bytes([id] * 8), name=name, kind=kind,
                start_time_unix_nano=start, end_time_unix_nano=start + took,
            )  # fmt: skip
            span.attributes.add(key="http.status").value.int_value = 500 if status else 200
            span.attributes.add(key="cached").value.bool_value = False
            if parent:
                span.parent_span_id = bytes([parent] * 8)
            if status:
                span.status.code = status
                span.status.message = "no GPU"
                event = span.events.add(time_unix_nano=start + MS, name="exception")
                event.attributes.add(key="exception.type").value.string_value = "ValueError"
                span.links.add(trace_id=OTHER, span_id=bytes([9] * 8))
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    answer = collector.request("POST", "/v1/traces", gzip.compress(request.SerializeToString()), headers)
    assert answer.status == 200, answer.body
    collector.until(lambda: len(ask(collector, "services")["data"]) == 2)
    return first


def ask(collector: Any, path: str, **query: object) -> Any:
    target = f"/api/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
    answer = collector.request("GET", target)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["errors"] is None
    return answer.json()


def test_services_and_operations(collector: Any, base: int) -> None:
    assert ask(collector, "services") == {
        "data": ["front/end", "model"], "total": 2, "limit": 0, "offset": 0, "errors": None,
    }  # fmt: skip
    name = quote("front/end", safe="")
    assert ask(collector, f"services/{name}/operations")["data"] == ["GET /", "GET /slow"]
    assert ask(collector, "operations", service="model")["data"] == [{"name": "infer", "spanKind": "client"}]
    assert ask(collector, "operations", service="model", spanKind="server")["data"] == []


def test_a_trace(collector: Any, base: int) -> None:
    answer = ask(collector, f"traces/{TRACE.hex()}", start=base // 1000 - 10**6, end=base // 1000 + 10**9)
    (trace,) = answer["data"]
    assert trace["traceID"] == TRACE.hex()
    assert trace["processes"] == {
        f"p{i}": {"serviceName": name, "tags": [{"key": "host.name", "type": "string", "value": "node-1"}]}
        for i, name in ((1, "front/end"), (2, "model"))
    }
    root, child = trace["spans"]
    assert (root["operationName"], root["processID"], root["references"]) == ("GET /", "p1", [])
    assert (root["startTime"], root["duration"]) == (base // 1000, 100_000)
    assert child["references"] == [
        {"refType": "CHILD_OF", "traceID": TRACE.hex(), "spanID": "01" * 8},
        {"refType": "FOLLOWS_FROM", "traceID": OTHER.hex(), "spanID": "09" * 8},
    ]
    assert child["logs"] == [
        {
            "timestamp": base // 1000 + 11_000,
            "fields": [
                {"key": "event", "type": "string", "value": "exception"},
                {"key": "exception.type", "type": "string", "value": "ValueError"},
            ],
        }
    ]
    tags = {tag["key"]: (tag["type"], tag["value"]) for tag in child["tags"]}
    assert tags == {
        "http.status": ("int64", 500), "cached": ("bool", False), "span.kind": ("string", "client"),
        "error": ("bool", True), "otel.status_code": ("string", "ERROR"),
        "otel.status_description": ("string", "no GPU"), "otel.scope.name": ("string", "lib"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"service": "front/end"}, [OTHER, TRACE]),
        ({"service": "front/end", "limit": "1"}, [OTHER]),
        ({"service": "front/end", "operation": "GET /"}, [TRACE]),
        ({"service": "model", "tags": json.dumps({"error": "true"})}, [TRACE]),
        ({"service": "front/end", "tags": json.dumps({"error": "true"})}, []),
        ({"service": "front/end", "tags": json.dumps({"http.status": "200"})}, [OTHER, TRACE]),
        ({"service": "model", "tags": json.dumps({"host.name": "node-1", "span.kind": "client"})}, [TRACE]),
        ({"service": "model", "tag": "http.status:404"}, []),
        ({"service": "front/end", "minDuration": "1.5s"}, [OTHER]),
        ({"service": "front/end", "maxDuration": "150ms"}, [TRACE]),
        ({"service": "front/end", "lookback": "1h", "start": "1", "end": "2"}, []),
        ({"service": "none"}, []),
        ({"traceID": [TRACE.hex(), OTHER.hex()]}, [TRACE, OTHER]),
    ],
)
def test_search(collector: Any, base: int, query: dict[str, Any], found: list[bytes]) -> None:
    data = ask(collector, "traces", **query)["data"]
    assert [trace["traceID"] for trace in data] == [trace.hex() for trace in found]


def test_a_found_trace_is_whole(collector: Any, base: int) -> None:
    (trace,) = ask(collector, "traces", service="model")["data"]
    assert len(trace["spans"]) == 2


def test_dependencies(collector: Any, base: int) -> None:
    answer = ask(collector, "dependencies", endTs=base // MS + 60_000, lookback=3_600_000)
    assert answer["data"] == [{"parent": "front/end", "child": "model", "callCount": 1}]


def test_the_past_is_what_was_known_then(collector: Any, base: int) -> None:
    assert ask(collector, "services", at=1000)["data"] == []


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("traces/" + "f" * 32, 404, "trace not found"),
        (f"traces/{TRACE.hex()}?end=1", 404, "trace not found"),
        ("traces/xyz", 400, "trace id"),
        ("traces/" + "0" * 33, 400, "trace id"),
        ("traces", 400, "'service' is required"),
        ("operations", 400, "'service' is required"),
        ("operations?service=x&spanKind=y", 400, "kinds are"),
        ("traces?service=x&tags=[1]", 400, "JSON object"),
        ("traces?service=x&tags=" + "[" * 5000, 400, "JSON object"),
        ("traces?service=x&tag=abc", 400, "key:value"),
        ("traces?service=x&minDuration=5", 400, "duration"),
        ("traces?service=x&start=-1", 400, "whole number"),
        ("traces?service=x&limit=x", 400, "whole number"),
        ("services?at=never", 400, "at"),
        ("services/x", 404, "nothing is served"),
    ],
)
def test_mistakes_have_jaegers_shape(collector: Any, base: int, target: str, status: int, said: str) -> None:
    answer = collector.request("GET", f"/api/{target}")
    assert answer.status == status, answer.body
    body = answer.json()
    assert body["data"] is None
    (error,) = body["errors"]
    assert error["code"] == status
    assert said in error["msg"]
    assert collector.request("POST", "/api/services").status == 405
