"""A small HTTP/1.1 server for loopback: bodies are handed on as they arrive, and nothing heavy is imported.

`http.server` brings the email package and buffers nothing of what we need; this reads what Ray's aiohttp client,
urllib and curl send: Content-Length or chunked bodies, keep-alive, ``Expect: 100-continue``.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from misstep.core.errors import InputError, MisstepError, TooLargeError, UnavailableError

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024 * 1024
_READ = 128 * 1024
_CONNECTIONS = 128
_DRAIN = 2 * BODY_LIMIT
_IDLE = 90.0
_STALLED = 20.0
_REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    411: "Length Required", 413: "Content Too Large", 415: "Unsupported Media Type", 421: "Misdirected Request",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip


class Answer(NamedTuple):
    """What goes back: a status, a JSON text, and seconds for ``Retry-After`` (0: none)."""

    status: int
    body: str = "{}"
    retry_after: int = 0


class Request(NamedTuple):
    """The head of a request; header names are lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    peer: tuple[str, int]


class Body(Protocol):
    """Takes a request's body."""

    def feed(self, data: bytes) -> Answer | None:
        """The next piece; an answer ends the request early, and with it the connection."""
        ...

    def finish(self) -> Answer:
        """The body is complete."""
        ...


Route = Callable[[Request], "Answer | Body"]
"""Decides by the head alone: an answer, or who takes the body."""


class Listener:
    """One thread, all connections.

    Args:
        route: called for each request, on the listener's thread. `InputError` becomes 400, `TooLargeError` 413.
        port: 0 takes a free one; see `port` for which.
        refused: told the status of each request that was answered with 4xx.

    Raises:
        UnavailableError: the address is taken.
    """

    def __init__(
        self,
        route: Route,
        port: int,
        *,
        host: str = "127.0.0.1",
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._route = route
        self._refused = refused
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        self._socket.listen(64)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="misstep-receiver", daemon=True)
        self._connections: set[_Connection] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to serve."""
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Stop serving; open requests are cut."""
        self._stopping = True
        self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join(5.0)
        for connection in list(self._connections):
            self._drop(connection)
        for held in (self._socket, self._wake, self._woken):
            held.close()
        self._selector.close()

    def _serve(self) -> None:
        while not self._stopping:
            timeout = 5.0 if self._connections else None
            for key, _ in self._selector.select(timeout):
                if key.fileobj is self._socket:
                    self._accept()
                elif isinstance(key.data, _Connection):
                    self._read(key.data)
            self._expire()

    def _accept(self) -> None:
        try:
            client, peer = self._socket.accept()
        except OSError:
            return
        if len(self._connections) >= _CONNECTIONS:
            client.close()
            return
        client.setblocking(False)
        connection = _Connection(client, peer, self._route, self._refused)
        self._connections.add(connection)
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_READ)
            alive = bool(data) and connection.receive(data)
        except BlockingIOError:
            return
        except OSError:
            alive = False
        except (
            MisstepError,
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ):
            # A fault of ours in one request must not end the service for all.
            self._refused(500)
            alive = False
        if not alive:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        try:
            self._selector.unregister(connection.socket)
        except (KeyError, ValueError):
            pass
        connection.socket.close()

    def _expire(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections if now - c.heard > (_STALLED if c.busy else _IDLE)]:
            self._drop(connection)


class _Connection:
    """One client: a state machine over head and body."""

    def __init__(
        self, client: socket.socket, peer: tuple[str, int], route: Route, refused: Callable[[int], None]
    ) -> None:
        self.socket = client
        self.heard = time.monotonic()
        self.busy = False
        self._peer = peer
        self._route = route
        self._refused = refused
        self._buffer = b""
        self._body: Body | None = None
        self._left = 0
        self._taken = 0
        self._chunks: _Chunks | None = None
        self._keep = True
        self._draining = 0

    def receive(self, data: bytes) -> bool:
        """Take what came in; False ends the connection."""
        self.heard = time.monotonic()
        if self._draining:
            self._draining -= len(data)
            return self._draining > 0
        self._buffer += data
        try:
            while self._buffer:
                if self._body is None:
                    if not self._head():
                        break
                elif not self._more():
                    break
            return self._keep or self._draining > 0
        except TooLargeError as error:
            return self._end(Answer(413, _error(str(error))))
        except InputError as error:
            return self._end(Answer(400, _error(str(error))))

    def _head(self) -> bool:
        """Read a head; True when something of the buffer was used up."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                self._end(Answer(431, _error("the head of the request is too long")))
            return False
        head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
        self.busy = True
        request = _parse(head, self._peer)
        self._keep = request.headers.get("connection", "").lower() != "close"
        taker = self._route(request)
        if isinstance(taker, Answer):
            # What the client is still sending would be read as the next request.
            bodiless = (
                request.headers.get("content-length", "0") == "0"
                and "transfer-encoding" not in request.headers
            )
            return self._answer(taker) if bodiless else self._end(taker)
        return self._expect(request, taker)

    def _expect(self, request: Request, body: Body) -> bool:
        coding = request.headers.get("transfer-encoding", "").lower()
        self._body, self._taken, self._chunks = body, 0, None
        if coding == "chunked":
            self._chunks = _Chunks()
        elif coding:
            return self._end(Answer(501, _error(f"transfer coding {coding!r} is not supported")))
        else:
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or len(length) > 18:
                return self._end(Answer(411, _error("say how long the body is with Content-Length")))
            self._left = int(length)
            if self._left > BODY_LIMIT:
                raise TooLargeError(f"the body has {self._left} bytes; at most {BODY_LIMIT} are taken")
        if request.headers.get("expect", "").lower() == "100-continue":
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._chunks is None and self._left == 0:
            return self._finish()
        return True

    def _more(self) -> bool:
        body = self._body
        assert body is not None
        if self._chunks is None:
            piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._left -= len(piece)
            done = self._left == 0
        else:
            piece, self._buffer, done = self._chunks.take(self._buffer)
            if not piece and not done:
                return False
        self._taken += len(piece)
        if self._taken > BODY_LIMIT:
            raise TooLargeError(f"the body has more than {BODY_LIMIT} bytes")
        early = body.feed(piece) if piece else None
        if early is not None:
            return self._end(early)
        return self._finish() if done else True

    def _finish(self) -> bool:
        body, self._body = self._body, None
        assert body is not None
        return self._answer(body.finish())

    def _end(self, answer: Answer) -> bool:
        """Answer before the body was read, and let the client finish: a reset would take the answer from it."""
        self._keep = False
        self._answer(answer)
        self._buffer, self._draining, self.busy = b"", _DRAIN, True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def _answer(self, answer: Answer) -> bool:
        self.busy, self._body = False, None
        if 400 <= answer.status < 500:
            self._refused(answer.status)
        text = answer.body.encode()
        retry = f"Retry-After: {answer.retry_after}\r\n" if answer.retry_after else ""
        close = "" if self._keep else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, '')}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n{retry}{close}\r\n"
        )
        self._send(head.encode() + text)
        return self._keep

    def _send(self, data: bytes) -> None:
        try:
            if self.socket.send(data) != len(data):
                self._keep = False
        except OSError:
            self._keep = False


class _Chunks:
    """The chunked transfer coding, RFC 9112 section 7.1."""

    def __init__(self) -> None:
        self._left = 0
        self._between = False
        self._trailer = False

    def take(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """(a piece of the body, what is left of `data`, whether the body is complete)."""
        if self._left:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._between = self._left == 0
            return piece, data, False
        line, found, rest = data.partition(b"\r\n")
        if not found:
            if len(data) > 256:
                raise InputError("malformed chunk")
            return b"", data, False
        if self._between and not line:
            self._between = False
            return self.take(rest) if rest else (b"", rest, False)
        if self._trailer:
            if line:
                raise InputError("trailers are not taken")
            return b"", rest, True
        size = line.partition(b";")[0].strip()
        if (
            self._between
            or not size
            or len(size) > 8
            or not all(c in b"0123456789abcdefABCDEF" for c in size)
        ):
            raise InputError("malformed chunk")
        self._left = int(size, 16)
        self._trailer = self._left == 0
        return self.take(rest) if rest else (b"", rest, False)


def _parse(head: bytes, peer: tuple[str, int]) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
        raise InputError("not an HTTP/1.1 request")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip():
            raise InputError("malformed header")
        if key in headers and key in ("content-length", "transfer-encoding", "host"):
            raise InputError(f"header {key} comes twice")
        headers[key] = value.strip()
    if "content-length" in headers and "transfer-encoding" in headers:
        raise InputError("both Content-Length and Transfer-Encoding")
    if parts[2] == "HTTP/1.0":
        headers["connection"] = "close"
    return Request(parts[0], parts[1], headers, peer)


def _error(message: str) -> str:
    return json.dumps({"error": message})
