"""Talks to one rank over its two sockets; see `hook/torch_hook.py` for what they answer."""

from __future__ import annotations

import os
import socket
import struct

_LENGTH = 4
_LIMIT = 64 * 1024 * 1024
_CONNECT = 0.2
_REQUEST = b"POST /handler/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
STATUS, HELLO, STACKS, TRACE = b"s", b"h", b"t", b"d"


class Door:
    """The kept connection to the hook's thread: one question at a time, never waited for.

    Args:
        path: of the ``.py`` socket.

    Attributes:
        pid: of the rank, as this machine counts.
        user: its owner.
        asked: the question that is not answered yet, or empty.
        since: when it was asked, monotonic seconds.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(_CONNECT)
            self._socket.connect(path)
            held = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid, self.user, _ = struct.unpack("3i", held)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self.asked = b""
        self.since = 0.0
        self._buffer = b""

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def ask(self, question: bytes, now: float) -> None:
        """Put a question; nothing may be unanswered.

        Raises:
            OSError: the rank is gone.
        """
        self._socket.send(question)
        self.asked, self.since = question, now

    def receive(self) -> tuple[bytes, bytes] | None:
        """The question and its answer, once all of it is there.

        Raises:
            OSError: the rank is gone.
        """
        try:
            part = self._socket.recv(256 * 1024)
        except BlockingIOError:
            return None
        if not part:
            raise ConnectionResetError("the rank has closed its socket")
        self._buffer += part
        if len(self._buffer) < _LENGTH:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if length > _LIMIT:
            raise ConnectionResetError("what answers there is not the hook")
        if len(self._buffer) < _LENGTH + length:
            return None
        answered, body = self.asked, self._buffer[_LENGTH : _LENGTH + length]
        self._buffer, self.asked = b"", b""
        return answered, body

    def close(self) -> None:
        """Close."""
        self._socket.close()


def trace(path: str, handler: str, timeout: float) -> bytes:
    """What the Flight Recorder of a rank holds, by torch's own server, while Python in it may stand still.

    Args:
        path: of the ``.fr`` socket.
        handler: ``fr_trace_json``, or ``dump_nccl_trace_json`` for NCCL's own ring.
        timeout: seconds for connecting and each read.

    Raises:
        OSError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout)
        link.connect(path)
        link.sendall(_REQUEST % handler.encode())
        parts: list[bytes] = []
        size = 0
        while part := link.recv(256 * 1024):
            parts.append(part)
            size += len(part)
            if size > _LIMIT:
                raise ConnectionResetError("an answer longer than any ring")
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        raise ConnectionResetError("the worker server refused")
    return body


def sweep(path: str) -> None:
    """Remove the sockets of a rank that is gone."""
    for one in (path, path.removesuffix(".py") + ".fr"):
        try:
            os.unlink(one)
        except OSError:
            pass  # gone already, or somebody else's
