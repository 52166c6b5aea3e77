"""What the child writes: frames of one letter, a length and a body. Texts are UTF-8, lines of fields between tabs.

``L`` a layout: tier, its number, then a line ``metric|labels, gpu, MIG instance`` for each value
``V`` values: tier, number of the layout, Unix nanoseconds of the reading, the doubles
``G`` the GPUs: a line ``index, uuid, PCI address, name, memory, power limit, links, minor number, driver`` for each
``M`` instances of MIG: a line ``gpu, instance, uuid`` for each
``P`` who holds a GPU: its index, then a line ``pid, bytes, MIG instance`` for each process
``E`` something happened: ``gpu, kind, …``
``X`` the child leaves: return code and why
"""

from __future__ import annotations

import os
import struct

HEAD = struct.Struct("<cI")
VALUES = struct.Struct("<cIQ")
LONGEST = 1 << 24
FAST, SLOW = b"F", b"S"
PAGE = 3
"""Descriptor of the page in which the child says where it is."""


def lines(rows: list[tuple[object, ...]]) -> bytes:
    """Rows as text."""
    return "\n".join("\t".join(_plain(field) for field in row) for row in rows).encode("utf-8", "replace")


def rows(body: bytes) -> list[list[str]]:
    """The rows of a text."""
    return [line.split("\t") for line in body.decode("utf-8", "replace").split("\n")] if body else []


def _plain(field: object) -> str:
    return str(field).replace("\t", " ").replace("\n", " ")


class Writer:
    """The child's end.

    Args:
        out: descriptor of a pipe.
    """

    def __init__(self, out: int) -> None:
        self._out = out

    def send(self, kind: bytes, body: bytes) -> None:
        """Write a frame.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        held = memoryview(HEAD.pack(kind, len(body)) + body)
        while held:
            held = held[os.write(self._out, held) :]


class Reader:
    """The agent's end: frames out of whatever bytes came."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are complete now, as (kind, body).

        Raises:
            ValueError: this is no frame; nothing after it can be understood.
        """
        self._held += data
        found, at = [], 0
        while len(self._held) - at >= HEAD.size:
            kind, size = HEAD.unpack_from(self._held, at)
            if size > LONGEST:
                raise ValueError("a frame of the GPU reader is too long")
            if len(self._held) - at - HEAD.size < size:
                break
            at += HEAD.size
            found.append((kind, bytes(self._held[at : at + size])))
            at += size
        del self._held[:at]
        return found
