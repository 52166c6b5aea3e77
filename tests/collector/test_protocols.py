"""Every way in: OTLP in JSON and over gRPC, zstd, traces, remote write, and clients that others wrote."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import time
import warnings
from collections.abc import Callable
from typing import Any

import cramjam
import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from misstep.store.encoding import zstd
from misstep.store.metrics import STALE
from misstep.store.write_request import message

JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
WRITE = {**PROTOBUF, "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TRACE_ID = "5b8efff798038103d269b633813fc60c"


def lines(collector: Any, session: str) -> Any:
    return collector.ask("logs", session=session)["logs"]


def json_log(session: str, **record: Any) -> dict[str, Any]:
    pair = {"key": "misstep.session", "value": {"stringValue": session}}
    own = {"attributes": [pair], "body": {"stringValue": "in JSON"}, **record}
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [own]}]}]}


def test_json_is_taken_with_numbers_as_strings_and_what_is_unknown_left_out(collector: Any) -> None:
    for ts in ("1700000000000000001", 1700000000000000001):
        document = json_log(
            "s/ray/json/1", timeUnixNano=ts, traceId=TRACE_ID, severityNumber=13, future={"x": [1]}
        )
        answer = collector.request("POST", "/v1/logs", json.dumps(document).encode(), JSON)
        assert (answer.status, answer.headers["content-type"], answer.json()) == (200, "application/json", {})
    found = collector.until(lambda: len(f := lines(collector, "s/ray/json/1")) == 2 and f)
    assert [row["body"] for row in found] == ["in JSON"] * 2


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs", "/v1/traces"])
def test_an_empty_json_request_is_a_success(collector: Any, path: str) -> None:
    answer = collector.request("POST", path, b"{}", JSON)
    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"resourceLogs": 5}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": "xyz"}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"traceId": [1]}]}]}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "soon"}]}]}]}',
        b'{"resourceLogs":' * 500 + b"1" + b"}" * 500,
    ],
)
def test_bad_json_is_told_in_json(collector: Any, body: bytes) -> None:
    answer = collector.request("POST", "/v1/logs", body, JSON)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert answer.json()["code"] == 3
    assert "JSON" in answer.json()["message"] or "hexadecimal" in answer.json()["message"]
    assert collector.request("GET", "/healthz").status == 200


def test_partial_success_in_json_and_protobuf(collector: Any) -> None:
    document = {
        "resourceSpans": [{"scopeSpans": [{"spans": [{"name": "x", "traceId": "00", "spanId": "01"}]}]}]
    }
    told = collector.request("POST", "/v1/traces", json.dumps(document).encode(), JSON).json()[
        "partialSuccess"
    ]
    assert told["rejectedSpans"] == "1"
    assert "trace id" in told["errorMessage"]
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="x")
    answer = collector.request("POST", "/v1/traces", request.SerializeToString(), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert (answer.status, partial.rejected_spans) == (200, 1)


def test_zstd_is_taken_and_its_bombs_are_not(collector: Any) -> None:
    headers = {**JSON, "Content-Encoding": "zstd"}
    body = zstd.compress(json.dumps(json_log("s/ray/zstd/1")).encode())
    assert collector.request("POST", "/v1/logs", body, headers).status == 200
    assert collector.until(lambda: lines(collector, "s/ray/zstd/1"))
    bomb = zstd.compress(bytes(200 * 1024 * 1024))
    assert collector.request("POST", "/v1/logs", bomb, headers).status == 413
    assert collector.request("POST", "/v1/logs", body[:-4], headers).status == 400


def write_request(name: str, *samples: tuple[int, float], **labels: str) -> Any:
    request = message()()
    series = request.timeseries.add()
    for key, value in {"__name__": name, **labels}.items():
        series.labels.add(name=key, value=value)
    for ts, number in samples:
        series.samples.add(timestamp=ts, value=number)
    return request


def post_write(collector: Any, request: Any, **headers: str) -> Any:
    body = bytes(cramjam.snappy.compress_raw(request.SerializeToString()))
    return collector.request("POST", "/api/v1/write", body, {**WRITE, **headers})


def test_remote_write_is_taken_and_version_2_refused(collector: Any) -> None:
    now = int(time.time() * 1000)
    answer = post_write(collector, write_request("up", (now, 1.0), job="x"))
    assert (answer.status, answer.body) == (204, b"")
    found = collector.until(
        lambda: collector.request("GET", "/api/v1/query?query=up").json()["data"]["result"]
    )
    assert found[0]["metric"] == {"__name__": "up", "job": "x"}
    second = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
    answer = post_write(collector, write_request("up"), **{"Content-Type": second})
    assert (answer.status, answer.headers["content-type"]) == (415, "text/plain; charset=utf-8")
    first = "application/x-protobuf;proto=prometheus.WriteRequest"
    assert post_write(collector, write_request("up", (now + 1, 1.0)), **{"Content-Type": first}).status == 204


def test_bad_remote_writes_are_never_worth_a_retry(collector: Any) -> None:
    cases = [
        b"",
        b"\xff" * 20,
        bytes(cramjam.snappy.compress_raw(b"\xff\xff")),
        b"\xff\xff\xff\xff\x7f" + b"x" * 9,
    ]
    for body in cases[1:]:
        assert collector.request("POST", "/api/v1/write", body, WRITE).status in (400, 413)
    for request in (
        write_request("", (1, 1.0)),
        write_request("m", (-5, 1.0)),
        write_request("m", (2**62, 1.0)),
    ):
        assert post_write(collector, request).status == 400
    huge = b"\x80\x80\x80\x80\x04" + b"abc"
    assert collector.request("POST", "/api/v1/write", huge, WRITE).status == 413
    assert collector.request("GET", "/api/v1/write").status == 405
    assert collector.request("GET", "/healthz").status == 200


def test_a_stale_sample_of_remote_write_ends_its_series(collector: Any) -> None:
    now = int(time.time() * 1000)
    stale = struct.unpack("<d", struct.pack("<Q", STALE))[0]
    assert post_write(collector, write_request("ends", (now - 2000, 1.0), (now - 1000, stale))).status == 204

    def ask(at: float) -> Any:
        return collector.request("GET", f"/api/v1/query?query=ends&time={at}").json()["data"]["result"]

    assert collector.until(lambda: ask(now / 1000 - 1.5))
    assert ask(now / 1000) == []


@pytest.fixture(scope="module")
def channel(collector: Any) -> Any:
    target = collector.addresses["otlp_grpc"].removeprefix("http://")
    with grpc.insecure_channel(target) as found:
        grpc.channel_ready_future(found).result(timeout=60)
        yield found


def call(channel: Any, method: str, body: bytes, **options: Any) -> bytes:
    found: bytes = channel.unary_unary(method)(body, timeout=60, **options)
    return found


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_grpc_takes_what_http_takes(collector: Any, channel: Any, otlp: Any, compression: Any) -> None:
    session = f"s/ray/grpc/{compression.value}"
    body = otlp.logs({"body": "over gRPC", "attributes": {"misstep.session": session}}).SerializeToString()
    assert call(channel, LOGS, body, compression=compression) == b""
    assert not ExportLogsServiceResponse.FromString(b"").HasField("partial_success")
    assert [row["body"] for row in collector.until(lambda: lines(collector, session))] == ["over gRPC"]
    for method in (LOGS, METRICS, TRACES):
        assert call(channel, method, b"") == b""


def test_grpc_refuses_in_its_own_shape(collector: Any, channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, LOGS, b"\xff\xff\xff")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, LOGS, bytes(65 * 1024 * 1024))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, LOGS, bytes(200 * 1024 * 1024), compression=grpc.Compression.Gzip)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as failed:
        call(channel, "/opentelemetry.proto.collector.logs.v1.LogsService/Import", b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.add(name="m").gauge.data_points.add()
    told = ExportMetricsServiceResponse.FromString(call(channel, METRICS, request.SerializeToString()))
    assert told.partial_success.rejected_data_points == 1
    assert "without a value" in told.partial_success.error_message


def test_a_numbered_request_is_stored_once_over_any_protocol(collector: Any, channel: Any, otlp: Any) -> None:
    session = "s/ray/once/1"
    body = otlp.logs({"body": "once", "attributes": {"misstep.session": session}}).SerializeToString()
    headers = {"misstep-agent": "g", "misstep-boot": "b", "misstep-seq": "1"}
    call(channel, LOGS, body, metadata=tuple(headers.items()))
    assert collector.request("POST", "/v1/logs", body, {**PROTOBUF, **headers}).status == 200
    collector.until(lambda: lines(collector, session))
    time.sleep(0.2)
    assert len(lines(collector, session)) == 1


def test_a_tenant_that_sends_too_often_is_told_to_wait(
    launch: Callable[..., Any], tmp_path: Any, otlp: Any
) -> None:
    collector = launch(environ={"MISSTEP_COLLECTOR_REQUESTS_PER_SECOND": "0.5"})
    answers = [collector.request("POST", "/v1/logs", b"", PROTOBUF) for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 3
    assert collector.metrics()['misstep_collector_refused_total{reason="rate"}'] == 1
    target = collector.addresses["otlp_grpc"].removeprefix("http://")
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        with pytest.raises(grpc.RpcError) as failed:
            for _ in range(10):
                call(channel, LOGS, b"")
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = dict(failed.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"google.rpc.RetryInfo" in details


def test_a_tenant_without_room_is_turned_away_before_its_points_are_read(
    launch: Callable[..., Any], otlp: Any
) -> None:
    collector = launch(environ={"MISSTEP_COLLECTOR_SERIES_PER_TENANT": "3"})
    own = [{"id": str(number)} for number in range(3)]
    for _ in range(3):
        assert collector.send(otlp.gauge("own", own)).status == 200
    more = otlp.gauge("more", [{"id": "x"}, {"id": "y"}])
    first = collector.send(more)
    assert first.status == 200
    assert ExportMetricsServiceResponse.FromString(first.body).partial_success.rejected_data_points == 2
    again = collector.send(more)
    assert again.status == 429
    assert 1 <= int(again.headers["retry-after"]) <= 10
    assert b"series_per_tenant" in again.body
    assert collector.send(otlp.gauge("own", own)).status == 200, "what it had before is taken"
    assert collector.send(otlp.logs({"body": "and events too"})).status == 200


def test_what_came_in_any_encoding_is_there_after_a_crash(launch: Callable[..., Any], tmp_path: Any) -> None:
    data = tmp_path / "kept"
    collector = launch(data=data)
    document = json.dumps(json_log("s/ray/kept/1")).encode()
    for encoding, body in (("identity", document), ("zstd", zstd.compress(document))):
        headers = {**JSON, "Content-Encoding": encoding}
        assert collector.request("POST", "/v1/logs", body, headers).status == 200
    now = int(time.time() * 1000)
    assert post_write(collector, write_request("kept", (now, 7.0))).status == 204
    collector.stop(9)
    again = launch(data=data)
    assert len(again.until(lambda: lines(again, "s/ray/kept/1"))) == 2
    found = again.until(lambda: again.request("GET", "/api/v1/query?query=kept").json()["data"]["result"])
    assert found[0]["value"][1] == "7"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_exporters_of_the_sdk(collector: Any, protocol: str) -> None:
    pytest.importorskip(f"opentelemetry.exporter.otlp.proto.{protocol}")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    metrics, traces = exporters(protocol, collector)
    resource = Resource.create({"service.name": f"sdk-{protocol}", "deployment.environment": "test"})
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=60_000)
    provider = MeterProvider([reader], resource)
    meter = provider.get_meter("m")
    meter.create_counter("orders", unit="{order}").add(3, {"kind": "a"})
    meter.create_histogram("latency", unit="s").record(0.02)
    tracer = TracerProvider(resource=resource)
    tracer.add_span_processor(SimpleSpanProcessor(traces))
    with tracer.get_tracer("t").start_as_current_span("work") as span:
        span.add_event("half", {"n": 1})
    assert provider.force_flush()
    provider.shutdown()
    tracer.shutdown()

    def ask(query: str) -> Any:
        target = f'/api/v1/query?query={query}{{job="sdk-{protocol}"}}'
        return collector.request("GET", target).json()["data"]["result"]

    assert collector.until(lambda: ask("orders_total"))[0]["value"][1] == "3"
    assert ask("latency_seconds_count")[0]["value"][1] == "1"
    assert len(ask("latency_seconds_bucket")) > 5
    assert ask("target_info")[0]["metric"]["deployment_environment"] == "test"


def exporters(protocol: str, collector: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if protocol == "http":
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            base = collector.addresses["otlp"]
            return OTLPMetricExporter(base + "/v1/metrics"), OTLPSpanExporter(base + "/v1/traces")
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as Metrics
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Spans

        target = collector.addresses["otlp_grpc"]
        return Metrics(target, insecure=True), Spans(target, insecure=True)


def test_ids_in_json_are_hexadecimal_and_bytes_are_base64() -> None:
    from misstep.store.otlp_json import to_protobuf

    value = {"bytesValue": base64.b64encode(b"\x00\xff").decode()}
    pair = {"key": "traceId", "value": value}
    document = json_log("s", traceId=TRACE_ID.upper(), spanId="eee19b7ec3c1b174", attributes=[pair])
    request = ExportLogsServiceRequest.FromString(to_protobuf("logs", json.dumps(document).encode()))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    assert record.trace_id.hex() == TRACE_ID
    assert record.span_id.hex() == "eee19b7ec3c1b174"
    assert (record.attributes[0].key, record.attributes[0].value.bytes_value) == ("traceId", b"\x00\xff")


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs", "/v1/traces"])
def test_a_small_body_cannot_hold_millions_of_items(collector: Any, path: str) -> None:
    def nested(content: bytes, *numbers: int) -> bytes:
        for number in numbers:
            size, head = len(content), b""
            while size > 127:
                head, size = head + bytes([size & 127 | 128]), size >> 7
            content = bytes([number << 3 | 2]) + head + bytes([size]) + content
        return content

    body = nested(b"\x12\x00" * 1_500_000, 2, 1)
    if path == "/v1/metrics":
        body = nested(b"\x0a\x00" * 1_500_000, 5, 2, 2, 1)
    packed = gzip.compress(body, 1)
    assert len(packed) < 20_000
    answer = collector.request("POST", path, packed, {**PROTOBUF, "Content-Encoding": "gzip"})
    assert (answer.status, b"1000000" in answer.body) == (413, True)
