"""One gRPC call: against grpcio's server, and against whatever else may sit at the socket."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from misstep.agent.kubelet import resources, unary

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def data(body: bytes, flags: int = 0) -> bytes:
    return frame(0, flags, 1, body)


def message(body: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(body)) + body


END = frame(1, 5, 1, b"\x00\x0bgrpc-status\x010")


@contextmanager
def speaking(path: Path, answer: bytes, *, stay: bool = False) -> Iterator[None]:
    """A server that says this to whoever comes, and closes or stays."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        over = threading.Event()

        def serve() -> None:
            link, _ = server.accept()
            with link, suppress(OSError):  # the client may have heard enough
                link.recv(4096)
                link.sendall(answer)
                if stay:
                    over.wait(10)
                link.shutdown(socket.SHUT_WR)
                while link.recv(4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        over.set()
        thread.join(60)


@pytest.mark.parametrize("size", [0, 1, 16_379, 70_000, 3_000_000])
def test_an_answer_of_any_size_comes_whole(kubelet: Any, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    kubelet.answers[resources.LIST] = body[:size]
    assert unary.call(str(kubelet.path), resources.LIST) == body[:size]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "does not know this call"),
        (grpc.StatusCode.PERMISSION_DENIED, "permission denied"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "asked too often"),
        (grpc.StatusCode.DATA_LOSS, "gRPC status 15"),
    ],
)
def test_a_refusal_says_why(kubelet: Any, code: grpc.StatusCode, says: str) -> None:
    kubelet.answers[resources.LIST] = code
    with pytest.raises(unary.CallError, match=says) as caught:
        unary.call(str(kubelet.path), resources.LIST)
    assert caught.value.status == code.value[0]


def test_a_call_that_the_server_does_not_have(kubelet: Any) -> None:
    with pytest.raises(unary.CallError) as caught:
        unary.call(str(kubelet.path), "/v1.PodResourcesLister/Nothing")
    assert caught.value.status == unary.UNIMPLEMENTED


def test_a_message_over_the_limit_is_not_read(kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = bytes(100_001)
    with pytest.raises(unary.CallError, match="longer than 100000"):
        unary.call(str(kubelet.path), resources.LIST, limit=100_000)


def test_a_refusal_as_go_writes_it(tmp_path: Path) -> None:
    """Trailers alone: ``grpc-status`` in Huffman's code, as golang.org/x/net/http2/hpack has it."""
    headers = b"\x88\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64\x40\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x0212"
    path = tmp_path / "s"
    with speaking(path, SETTINGS + frame(1, 5, 1, headers)), pytest.raises(unary.CallError) as caught:
        unary.call(str(path), resources.LIST)
    assert caught.value.status == 12


def test_padding_pings_and_parts_are_taken(tmp_path: Path) -> None:
    path, whole = tmp_path / "s", message(b"answer")
    parts = (
        frame(6, 0, 0, b"12345678") + data(b"\x03" + whole[:4] + bytes(3), 8) + data(b"") + data(whole[4:])
    )
    with speaking(path, SETTINGS + parts + frame(8, 0, 0, b"\0\0\0\1") + END):
        assert unary.call(str(path), resources.LIST) == b"answer"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "broke off"),
        (SETTINGS[:5], "broke off"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
        (SETTINGS + data(message(b"x" * 100)[:50]), "broke off"),
        (SETTINGS + data(message(b"x" * 100)[:50], 1), "without an answer"),
        (SETTINGS + END, "without an answer"),
        (SETTINGS + data(b"\0\xff\xff\xff\xff"), "longer than"),
        (SETTINGS + data(message(b"x") + b"more"), "longer than"),
        (SETTINGS + data(b"\1" + message(b"x")[1:]), "compressed"),
        (SETTINGS + frame(3, 0, 1, b"\0\0\0\2"), "ended the call"),
        (SETTINGS + frame(7, 0, 0, b"\0\0\0\0\0\0\0\2"), "ended the connection"),
        (SETTINGS + data(b"\xff", 8) + END, "without an answer"),
        (frame(4, 1, 0, b"") * 50_000, "without an end"),
    ],
)
def test_what_is_no_answer_is_refused(tmp_path: Path, answer: bytes, says: str) -> None:
    path = tmp_path / "s"
    with speaking(path, answer), pytest.raises(unary.CallError, match=says):
        unary.call(str(path), resources.LIST, timeout=10, limit=100_000)


def test_one_who_says_nothing_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with speaking(path, SETTINGS, stay=True), pytest.raises(TimeoutError):
        unary.call(str(path), resources.LIST, timeout=0.2)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unary.call(str(tmp_path / "s"), resources.LIST)
