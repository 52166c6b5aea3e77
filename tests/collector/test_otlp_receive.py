"""What OTLP senders meet: a real collector, real bytes."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

PROTOBUF = {"Content-Type": "application/x-protobuf"}
MIB = 1024 * 1024


def status_text(body: bytes) -> tuple[int, str]:
    """Code and message of a google.rpc.Status."""
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    status = Status.FromString(body)
    return status.code, status.message


def peak(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bomb(size: int) -> bytes:
    """Gzip of so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * (size // MIB) + packer.flush() + bytes(8)


@pytest.mark.parametrize("otlp_port", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_success_is_an_empty_response_of_the_same_type(
    collector: Any, otlp: Any, compress: bool, otlp_port: bool
) -> None:
    answer = collector.send(otlp.gauge("a", [{"x": "1"}]), compress=compress, otlp=otlp_port)
    assert (answer.status, answer.headers["content-type"], answer.body) == (
        200,
        "application/x-protobuf",
        b"",
    )
    assert not ExportMetricsServiceResponse.FromString(answer.body).HasField("partial_success")
    answer = collector.send(otlp.logs({"body": "line"}), compress=compress, otlp=otlp_port)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/v1/metrics", "/v1/logs"])
def test_an_empty_request_is_a_success(collector: Any, path: str) -> None:
    assert collector.request("POST", path, b"", PROTOBUF).status == 200


def test_deflate_is_taken(collector: Any, otlp: Any) -> None:
    body = zlib.compress(
        otlp.logs(
            {"body": "deflated line", "attributes": {"misstep.session": "s/ray/deflate/1"}}
        ).SerializeToString()
    )
    assert (
        collector.request("POST", "/v1/logs", body, {**PROTOBUF, "Content-Encoding": "deflate"}).status == 200
    )
    found = collector.until(lambda: collector.ask("logs", session="s/ray/deflate/1")["logs"])
    assert [row["body"] for row in found] == ["deflated line"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "says"),
    [
        (b"\xff\xff\xff", PROTOBUF, 400, 3, "not an OTLP ExportLogsServiceRequest"),
        (b"\x0a\x05ab", PROTOBUF, 400, 3, "not an OTLP ExportLogsServiceRequest"),
        (b"not gzip", {**PROTOBUF, "Content-Encoding": "gzip"}, 400, 3, "gzip body is damaged"),
        (b"", {"Content-Type": "text/plain"}, 415, 3, "application/x-protobuf"),
        (b"", {}, 415, 3, "application/x-protobuf"),
        (b"", {**PROTOBUF, "Content-Encoding": "br"}, 415, 3, "gzip"),
        (b"", {**PROTOBUF, "Misstep-Boot": "b"}, 400, 3, "Misstep-Seq"),
        (
            b"",
            {**PROTOBUF, "Misstep-Boot": "b", "Misstep-Agent": "a", "Misstep-Seq": "-1"},
            400,
            3,
            "Misstep-Seq",
        ),
    ],
)
def test_what_cannot_be_taken_is_told_in_a_status(
    collector: Any, body: bytes, headers: dict[str, str], status: int, code: int, says: str
) -> None:
    answer = collector.request("POST", "/v1/logs", body, headers)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/x-protobuf")
    said = status_text(answer.body)
    assert said[0] == code
    assert says in said[1]


def test_invalid_utf8_is_malformed(collector: Any, otlp: Any) -> None:
    body = otlp.logs({"body": "AAAA"}).SerializeToString().replace(b"AAAA", b"A\xff\xfeA")
    assert collector.request("POST", "/v1/logs", body, PROTOBUF).status == 400


def test_truncated_requests_never_pass_as_whole(collector: Any, otlp: Any) -> None:
    body = otlp.gauge("a", [{"x": str(i)} for i in range(3)]).SerializeToString()
    answers = [
        collector.request("POST", "/v1/metrics", body[:size], PROTOBUF).status
        for size in range(1, len(body), 7)
    ]
    assert set(answers) == {400}


def test_other_paths_and_methods(collector: Any) -> None:
    assert collector.request("GET", "/v1/logs").status == 405
    answer = collector.request("POST", "/v1/profiles", b"", PROTOBUF)
    assert answer.status == 404
    assert "/v1/metrics, /v1/logs" in status_text(answer.body)[1]


def test_a_bomb_of_a_gigabyte_is_refused_without_memory(collector: Any, otlp: Any) -> None:
    packed = bomb(1024 * MIB)
    before = resident(collector.process.pid)
    headers = {**PROTOBUF, "Content-Encoding": "gzip"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: collector.request("POST", "/v1/metrics", packed, headers), range(8))
        )
    assert {a.status for a in answers} == {413}
    assert "67108864 bytes" in status_text(answers[0].body)[1]
    # Two at once, 64 MiB each, and the allocator's slack; a gigabyte is far off.
    assert resident(collector.process.pid) - before < 256 * MIB
    assert collector.send(otlp.logs({"body": "after the bomb"})).status == 200
    assert collector.metrics()['misstep_collector_refused_total{reason="too_large"}'] >= 8


def field(tag: int, held: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size = b""
    left = len(held)
    while left > 127:
        size += bytes((left & 127 | 128,))
        left >>= 7
    return bytes((tag,)) + size + bytes((left,)) + held


POINTS = field(0x0A, b"") * (30 * MIB)
ATTRIBUTES = field(0x0A, field(0x3A, b"") * (30 * MIB))


@pytest.mark.parametrize("held", [POINTS, ATTRIBUTES], ids=["points", "attributes"])
def test_a_crowd_of_empty_messages_is_refused_without_memory(collector: Any, otlp: Any, held: bytes) -> None:
    # 60 MiB that would become 2 GiB of objects: request, resource, scope, metric, gauge.
    body = field(0x0A, field(0x12, field(0x12, field(0x0A, b"crowd") + field(0x2A, held))))
    answer = collector.request("POST", "/v1/metrics", body, PROTOBUF)
    assert answer.status == 413
    assert "send smaller requests" in status_text(answer.body)[1]
    assert peak(collector.process.pid) < 768 * MIB
    assert collector.send(otlp.logs({"body": "after the crowd"})).status == 200


def test_a_crowd_of_empty_objects_in_json_is_refused_without_memory(collector: Any) -> None:
    body = b'{"resourceLogs":[' + b"{}," * (20 * MIB) + b"{}]}"
    answer = collector.request("POST", "/v1/logs", body, {"Content-Type": "application/json"})
    assert answer.status == 413
    assert peak(collector.process.pid) < 768 * MIB


def test_a_declared_length_over_the_limit_is_refused_at_once(collector: Any) -> None:
    parts = urlsplit(collector.addresses["collector"])
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
        client.sendall(
            b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
            b"Content-Length: 68719476736\r\n\r\n"
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_endless_headers_are_cut_off(collector: Any) -> None:
    parts = urlsplit(collector.addresses["collector"])
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 16 * MIB:
                sent += client.send(b"X-Padding: " + b"x" * 1000 + b"\r\n")


def test_a_hundred_thousand_label_sets_get_a_clear_answer(collector: Any, otlp: Any) -> None:
    request = otlp.gauge("wide", [{"id": f"value-{i}"} for i in range(100_000)])
    answer = collector.send(request)
    assert answer.status == 200
    partial = ExportMetricsServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_data_points == 50_000
    assert "series_per_request" in partial.error_message
    metrics = collector.metrics()
    assert metrics['misstep_collector_rejected_items_total{signal="metrics"}'] >= 50_000
    assert collector.send(otlp.gauge("narrow", [{"id": "1"}])).body == b""


def test_a_duplicate_is_acknowledged_and_not_stored_again(collector: Any, otlp: Any) -> None:
    session = "s/ray/twice/1"
    sender = {"Misstep-Agent": "agent-1", "Misstep-Boot": "boot-1"}

    def send(seq: int, text: str) -> int:
        record = {"body": text, "attributes": {"misstep.session": session}}
        return int(collector.send(otlp.logs(record), {**sender, "Misstep-Seq": str(seq)}).status)

    assert [send(5, "five"), send(5, "five"), send(9, "nine"), send(7, "late"), send(10, "ten")] == [200] * 5
    other = {"body": "other boot", "attributes": {"misstep.session": session}}
    assert (
        collector.send(otlp.logs(other), {**sender, "Misstep-Boot": "boot-2", "Misstep-Seq": "1"}).status
        == 200
    )
    found = collector.until(lambda: len(rows := collector.ask("logs", session=session)["logs"]) == 4 and rows)
    assert [row["body"] for row in found] == ["five", "nine", "ten", "other boot"]
    assert collector.metrics()['misstep_collector_duplicates_total{signal="logs"}'] >= 2


@pytest.mark.parametrize("offset", [-5, 5])
def test_a_clock_five_seconds_off_is_kept_as_sent(collector: Any, otlp: Any, offset: int) -> None:
    session, now = f"s/ray/clock{offset}/1", time.time_ns()
    ts = now + offset * 1_000_000_000
    assert (
        collector.send(otlp.logs({"ts": ts, "body": "x", "attributes": {"misstep.session": session}})).status
        == 200
    )
    (row,) = collector.until(lambda: collector.ask("logs", session=session)["logs"])
    assert row["ts_ns"] == ts
    assert abs(row["received_ns"] - now) < 3_000_000_000


def test_many_senders_at_once_lose_nothing(collector: Any, otlp: Any) -> None:
    session = "s/ray/many/1"

    def send(sender: int) -> None:
        parts = urlsplit(collector.addresses["otlp"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        for i in range(20):
            record = {"body": f"{sender}-{i}", "attributes": {"misstep.session": session}}
            connection.request("POST", "/v1/logs", otlp.logs(record).SerializeToString(), PROTOBUF)
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"")
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(8)))
    rows = collector.until(lambda: len(r := collector.ask("logs", session=session)["logs"]) >= 160 and r)
    assert sorted(row["body"] for row in rows) == sorted(f"{s}-{i}" for s in range(8) for i in range(20))


def test_every_refusal_is_counted_by_reason(collector: Any) -> None:
    before = collector.metrics()
    collector.request("POST", "/v1/logs", b"\xff", PROTOBUF)
    collector.request("POST", "/v1/logs", b"", {"Content-Type": "text/plain"})
    after = collector.metrics()
    for reason in ("malformed", "media_type"):
        name = f'misstep_collector_refused_total{{reason="{reason}"}}'
        assert after[name] == before[name] + 1
