"""One unary gRPC call with an empty request over a unix socket: as much of HTTP/2 (RFC 9113) as that takes.

grpcio would take more memory than the whole agent. What is sent is the same bytes each time; its headers are literals
(RFC 7541, 6.2.2), so nothing has to be compressed. The answer's headers are not decoded either: a message that is
complete is the answer, and of a refusal only ``grpc-status`` is looked for, in the two ways in which servers write it.
"""

from __future__ import annotations

import socket
import struct
import time

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK, _END_STREAM, _END_HEADERS, _PADDED = 1, 1, 4, 8
_NO_PUSH, _STREAM_WINDOW = 2, 4
_HEAD = struct.Struct(">BHBBI")
"""Length in 24 bits, type, flags, stream."""
_LONGEST = 16384
"""Bytes of a frame that a peer may send unless it was told otherwise."""
_READ = 65536
_STATUS = (b"\x0bgrpc-status", b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f")
"""The name as it is, and in Huffman's code as Go writes it; a value of one or two digits is shorter as it is."""
UNIMPLEMENTED = 12
_WORDS = {4: "it took too long", 7: "permission denied", 8: "it is asked too often", UNIMPLEMENTED: "it does not know this call", 14: "it is unavailable"}  # fmt: skip


class CallError(Exception):
    """The call was refused, or what came back is no answer.

    Attributes:
        status: of gRPC, 0 where none was found.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def call(path: str, method: str, *, timeout: float = 5.0, limit: int = 4 * 1024 * 1024) -> bytes:
    """Ask, and give back the message.

    Args:
        path: of the socket.
        method: ``/package.Service/Method``.
        timeout: seconds for all of it.
        limit: bytes of a message; a longer one is refused before it is read.

    Raises:
        OSError: nobody listens there, or the answer did not come in time.
        CallError: see there.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(timeout)
        link.connect(path)
        link.sendall(_request(method, limit))
        return _Answer(link, deadline, limit).read()


def _request(method: str, limit: int) -> bytes:
    window = limit + 65536  # so that no window has to be opened while the answer comes
    settings = struct.pack(">HIHI", _NO_PUSH, 0, _STREAM_WINDOW, window)
    headers = b"".join(
        b"\x00%c%b%c%b" % (len(name), name, len(value), value)
        for name, value in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode("ascii")), (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"user-agent", b"misstep-agent"),
        )
    )  # fmt: skip
    return _PREFACE + b"".join((
        _frame(_SETTINGS, 0, 0, settings),
        _frame(_WINDOW, 0, 0, struct.pack(">I", window)),
        _frame(_HEADERS, _END_HEADERS, 1, headers),
        _frame(_DATA, _END_STREAM, 1, bytes(5)),
    ))  # fmt: skip


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body) >> 16, len(body) & 0xFFFF, kind, flags, stream) + body


class _Answer:
    """What comes back on the only stream."""

    def __init__(self, link: socket.socket, deadline: float, limit: int) -> None:
        self._link, self._deadline, self._limit = link, deadline, limit
        self._left = 2 * limit + 65536
        self._held, self._at = b"", 0
        self._message, self._headers = bytearray(), bytearray()

    def read(self) -> bytes:
        """Frame after frame, until the stream ends."""
        over = False
        while not over:
            high, low, kind, flags, stream = _HEAD.unpack(self._take(_HEAD.size))
            size = high << 16 | low
            if size > _LONGEST:
                raise CallError("what answers there does not speak HTTP/2")
            over = self._frame(kind, flags, stream & 0x7FFFFFFF, self._take(size))
        status = self._status()
        if status:
            raise CallError(f"it refuses: {_WORDS.get(status, f'gRPC status {status}')}", status)
        if not self._is_whole():
            raise CallError("it ended without an answer")
        return bytes(self._message[5:])

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> bool:
        """Take a frame; True when it ends the stream."""
        if kind == _SETTINGS and not flags & _ACK:
            self._link.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._link.sendall(_frame(_PING, _ACK, 0, body))
        elif kind == _GOAWAY and body[4:8] != bytes(4):
            raise CallError("it ended the connection")
        elif kind == _RESET and stream == 1:
            raise CallError("it ended the call")
        elif kind == _DATA and stream == 1:
            self._add(body[1 : len(body) - body[0]] if flags & _PADDED and body else body)
        elif kind in (_HEADERS, _CONTINUATION) and stream == 1:
            self._headers += body
        return stream == 1 and kind in (_DATA, _HEADERS) and bool(flags & _END_STREAM)

    def _add(self, body: bytes) -> None:
        self._message += body
        if len(self._message) < 5:
            return
        packed, size = struct.unpack_from(">BI", self._message)
        if packed:
            raise CallError("it sends a compressed message that nobody asked for")
        if size > self._limit or len(self._message) > size + 5:
            raise CallError(f"its message is longer than {min(size, self._limit)} bytes")

    def _is_whole(self) -> bool:
        return (
            len(self._message) >= 5
            and len(self._message) == 5 + struct.unpack_from(">I", self._message, 1)[0]
        )

    def _status(self) -> int:
        for name in _STATUS:
            at = self._headers.rfind(name) + len(name)
            if at >= len(name):
                digits = bytes(self._headers[at + 1 : at + 1 + min(self._headers[at : at + 1] or b"\0")])
                return int(digits) if digits.isdigit() and len(digits) < 3 else 0
        return 0

    def _take(self, size: int) -> bytes:
        while len(self._held) - self._at < size:
            self._held, self._at = self._held[self._at :] + self._more(), 0
        begin, self._at = self._at, self._at + size
        return self._held[begin : self._at]

    def _more(self) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it does not answer in time")
        self._link.settimeout(left)
        part = self._link.recv(_READ)
        if not part:
            raise CallError("the answer broke off")
        self._left -= len(part)
        if self._left < 0:
            raise CallError("it sends without an end")
        return part
