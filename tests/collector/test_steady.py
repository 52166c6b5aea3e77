"""The short way of a steady sender's requests answers as the long one does, however the bytes come."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

NOW = 1_700_000_000_000_000_000


def body(value: float, host: str = "steady", points: int = 20) -> bytes:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    part.resource.attributes.add(key="host.name").value.string_value = host
    held = part.scope_metrics.add().metrics.add(name="hw.gpu.utilization").gauge.data_points
    for gpu in range(points):
        point = held.add(time_unix_nano=NOW + int(value), as_double=value)
        point.attributes.add(key="gpu").value.string_value = str(gpu)
    return bytes(request.SerializeToString())


def posted(body: bytes, *more: str, host: str = "localhost") -> bytes:
    lines = ["POST /v1/metrics HTTP/1.1", f"Host: {host}", "Content-Type: application/x-protobuf", *more]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest.fixture
def wire(collector: Any) -> Iterator[socket.socket]:
    """A connection whose next request is a steady one."""
    url = urlsplit(collector.addresses["otlp"])
    with contextlib.closing(socket.create_connection((url.hostname, url.port), timeout=60)) as found:
        for value in (1.0, 2.0):
            found.sendall(posted(body(value)))
            assert answers(found, 1) == [200]
        yield found


def answers(wire: socket.socket, count: int) -> list[int]:
    """The statuses of so many answers."""
    held = b""
    found: list[int] = []
    while len(found) < count:
        part = wire.recv(65536)
        assert part, held
        held += part
        while (head := re.match(rb"HTTP/1\.1 (\d+) .*?\r\n\r\n", held, re.DOTALL)) is not None:
            size = re.search(rb"(?i)content-length: (\d+)", head.group())
            end = head.end() + (int(size.group(1)) if size else 0)
            if len(held) < end:
                break
            found.append(int(head.group(1)))
            held = held[end:]
    assert not held
    return found


def test_the_head_is_that_of_the_long_way(wire: socket.socket) -> None:
    wire.sendall(posted(body(3.0)))
    short = wire.recv(65536)
    wire.sendall(posted(body(3.0, points=21)))
    long = wire.recv(65536)
    heads = [sorted(head.replace(b"\r\n\r\n", b"").split(b"\r\n")) for head in (short, long)]
    names = [[line.partition(b":")[0] for line in head] for head in heads]
    assert names[0] == names[1] and b"content-length: 0" in heads[0]


def test_a_body_in_pieces(wire: socket.socket) -> None:
    sent = posted(body(4.0))
    for at in range(0, len(sent), 97):
        wire.sendall(sent[at : at + 97])
    assert answers(wire, 1) == [200]
    wire.sendall(sent[:300])
    time.sleep(1.3)
    wire.sendall(sent[300:])
    assert answers(wire, 1) == [200]


def test_requests_sent_at_once_are_answered_in_their_order(wire: socket.socket) -> None:
    other = b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
    wire.sendall(posted(body(5.0)) + posted(body(6.0)) + other + posted(body(7.0)))
    assert answers(wire, 4) == [200, 200, 404, 200]


def test_a_steady_request_is_refused_like_any_other(wire: socket.socket) -> None:
    wire.sendall(posted(body(8.0), host="evil.example") + posted(body(8.0), "Misstep-Boot: b"))
    assert answers(wire, 2) == [403, 400]


def test_the_connection_ends_when_the_sender_says_so(wire: socket.socket) -> None:
    wire.sendall(posted(body(9.0), "Connection: close"))
    held = b""
    while part := wire.recv(65536):
        held += part
    assert held.startswith(b"HTTP/1.1 200") and b"connection: close" in held


def test_what_went_the_short_way_is_stored_and_counted(collector: Any, wire: socket.socket) -> None:
    counted = 'misstep_collector_requests_total{signal="metrics"}'
    before = collector.metrics()[counted]
    wire.sendall(posted(body(77.5)))
    assert answers(wire, 1) == [200]
    assert collector.metrics()[counted] == before + 1
    query = "/api/v1/query?query=count_values(%22v%22,{__name__=~%22hw_gpu_utilization.*%22})&time=1700000001"
    collector.until(lambda: b"77.5" in collector.request("GET", query).body)
