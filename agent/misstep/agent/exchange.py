"""One kept HTTP/1.1 connection to the collector, for POST and nothing else.

The standard library's client spends 0.3 ms on a request, most of it on parsing headers as if they were mail; the
agent sends two a second and has 3 ms for everything. What an answer may look like: RFC 9112, sections 4 to 7.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from misstep.agent.target import Target

if TYPE_CHECKING:
    import ssl

_HEAD_LIMIT = 64 * 1024
_READ = 64 * 1024


class AnswerError(Exception):
    """The answer is not HTTP, or broke off; whether the request was taken is in doubt."""


class NoAnswerError(AnswerError):
    """The connection was closed before the first byte of an answer."""


class Answer(NamedTuple):
    """What came back; the body is empty when it was longer than the limit.

    Attributes:
        retry_after: the header, as it is.
    """

    status: int
    body: bytes
    retry_after: str


class Exchange:
    """Opens with the first request; after an error `close` it.

    Args:
        timeout: seconds for connecting and for each read.
        limit: bytes of an answer's body.
    """

    def __init__(self, target: Target, timeout: float, limit: int) -> None:
        self.target = target
        self._timeout, self._limit = timeout, limit
        self._socket: socket.socket | ssl.SSLSocket | None = None
        self._buffer = b""
        name = f"[{target.host}]" if ":" in target.host else target.host
        self._host = (f"{name}:{target.port}" if target.port else name).encode("ascii", "replace")

    @property
    def is_open(self) -> bool:
        """Whether the next request goes over a connection that was used before."""
        return self._socket is not None

    def post(self, path: str, headers: bytes, body: bytes) -> Answer:
        """Send a request and read its answer.

        Args:
            headers: whole lines, each with its CRLF; Host and Content-Length are added.

        Raises:
            OSError: no connection, or it broke.
            AnswerError: what came back is no answer.
        """
        held = self._socket or self._connect()
        held.sendall(
            b"POST %s%s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s"
            % (self.target.path.encode(), path.encode(), self._host, headers, len(body), body)
        )
        self._buffer = b""
        while True:
            version, status, fields = self._head()
            if status >= 200:
                break
        answer = self._body(status, fields)
        if version == b"HTTP/1.0" or fields.get(b"connection", b"").lower() == b"close":
            self.close()
        return Answer(status, answer, fields.get(b"retry-after", b"").decode("ascii", "replace"))

    def cut(self) -> None:
        """From another thread: let a read that stands still come back with an error."""
        held = self._socket
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it came to an end by itself in the meantime

    def close(self) -> None:
        """Close; the next request opens a new connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        target = self.target
        port = target.port or (443 if target.scheme == "https" else 80)
        held = socket.create_connection((target.host, port), self._timeout)
        try:
            held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                import ssl  # here, not above: 4 MiB that plain HTTP on loopback does not need

                held = ssl.create_default_context().wrap_socket(held, server_hostname=target.host)
        except BaseException:
            held.close()
            raise
        self._socket = held
        return held

    # -- reading -----------------------------------------------------------------------------------
    def _more(self) -> None:
        assert self._socket is not None
        part = self._socket.recv(_READ)
        if not part:
            raise AnswerError("the answer broke off")
        self._buffer += part

    def _head(self) -> tuple[bytes, int, dict[bytes, bytes]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise AnswerError("the answer's headers have no end")
            try:
                self._more()
            except AnswerError:
                if not self._buffer:
                    raise NoAnswerError("the connection was closed without an answer") from None
                raise
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise AnswerError("what answers there does not speak HTTP")
        lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        version, _, rest = lines[0].partition(b" ")
        if not rest[:3].isdigit():
            raise AnswerError("the answer has no status")
        fields: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            fields[name.strip().lower()] = value.strip()
        return version, int(rest[:3]), fields

    def _body(self, status: int, fields: dict[bytes, bytes]) -> bytes:
        if status in (204, 304):
            return b""
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return self._chunks()
        length = fields.get(b"content-length", b"")
        if not length.isdigit():
            raise AnswerError("the answer does not say where it ends")
        size = int(length[:18])
        if size > self._limit:
            self.close()
            return b""
        return self._take(size)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            size = self._chunk_size()
            total += size
            if total > self._limit:
                self.close()
                return b""
            if size == 0:
                while self._line():
                    pass  # trailers
                return b"".join(parts)
            parts.append(self._take(size))
            if self._line():
                raise AnswerError("a chunk is longer than it says")

    def _chunk_size(self) -> int:
        digits = self._line().partition(b";")[0].strip()
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
            raise AnswerError("a chunk does not say how long it is")
        return int(digits, 16)

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _HEAD_LIMIT:
                raise AnswerError("a line of the answer has no end")
            self._more()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _take(self, size: int) -> bytes:
        parts, missing = [self._buffer[:size]], size - len(self._buffer[:size])
        self._buffer = self._buffer[size:]
        while missing > 0:
            self._more()
            part, self._buffer = self._buffer[:missing], self._buffer[missing:]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
