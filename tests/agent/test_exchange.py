"""Answers of every form: what is HTTP is understood, what is not is refused, and nothing hangs."""

import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from misstep.agent.exchange import AnswerError, Exchange, NoAnswerError
from misstep.agent.target import Target

LIMIT = 10_000


def answered(raw: bytes, pieces: int = 1) -> Any:
    """What the client makes of these bytes, after which the server closes."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    exchange = Exchange(Target("http", "collector", 80, "/x"), 5, LIMIT)
    exchange._socket = ours
    with theirs:
        for at in range(0, len(raw), max(1, len(raw) // pieces)):
            theirs.sendall(raw[at : at + max(1, len(raw) // pieces)])
        theirs.shutdown(socket.SHUT_WR)
        try:
            return exchange.post("/v1/logs", b"A: b\r\n", b"hello"), exchange.is_open, theirs.recv(4096)
        finally:
            exchange.close()


def test_the_request_and_a_plain_answer() -> None:
    answer, kept, request = answered(b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\nContent-Length: 2\r\n\r\nok", 9)
    assert answer == (429, b"ok", "7")
    assert kept
    assert (
        request == b"POST /x/v1/logs HTTP/1.1\r\nHost: collector:80\r\nA: b\r\nContent-Length: 5\r\n\r\nhello"
    )


@pytest.mark.parametrize(
    ("raw", "body", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: r\r\n\r\n", b"abc0123456789", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\nx", b"", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", b"", False),
    ],
)  # fmt: skip
def test_forms_of_an_answer(raw: bytes, body: bytes, kept: bool) -> None:
    answer, is_kept, _ = answered(raw, 3)
    assert (answer.body, is_kept) == (body, kept)


@pytest.mark.parametrize(
    "raw",
    [
        b"HELO\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ],
)
def test_what_is_no_answer(raw: bytes) -> None:
    with pytest.raises(AnswerError):
        answered(raw)


def test_silence_is_told_apart() -> None:
    with pytest.raises(NoAnswerError):
        answered(b"")


@given(
    st.one_of(
        st.binary(max_size=300), st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail)
    )
)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"\xb2\r\n")
@example("HTTP/1.1 ²00 OK\r\nContent-Length: ²\r\n\r\n".encode())
def test_any_bytes_end_in_an_answer_or_an_error(raw: bytes) -> None:
    try:
        answer, _, _ = answered(raw)
    except (AnswerError, OSError):
        return
    assert 200 <= answer.status <= 999
