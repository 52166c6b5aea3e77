"""Pages of a SQLite file, read one by one: for what is left of a file that SQLite itself gives up.

Format: https://sqlite.org/fileformat2.html#b_tree_pages, #record_format and #the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PAGE = 4096
"""Bytes; SQLite's default, which we never change."""
FRAME_HEAD = struct.Struct(">IIIIII")
"""Of a frame of the log: page number, size of the database after a commit or 0, two salts, two checksums."""
LOG_HEAD = 32
FRAME = FRAME_HEAD.size + PAGE

_TABLE_LEAF, _INDEX_LEAF, _INDEX_INTERIOR = 0x0D, 0x0A, 0x02
_FILE_HEAD = 100
_LEAST_LOCAL = (PAGE - 12) * 32 // 255 - 23
_MOST_LOCAL = {_TABLE_LEAF: PAGE - 35}
_MOST_LOCAL_OF_INDEX = (PAGE - 12) * 64 // 255 - 23
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_BIG_ENDIAN_SUMS = 0x377F0683

DAMAGED = (IndexError, KeyError, ValueError, struct.error)
"""What reading a damaged page raises; UnicodeDecodeError is a ValueError."""


class Page(NamedTuple):
    """One version of a page.

    Attributes:
        number: from 1.
        data: its bytes.
        sound: whether a checksum says that they are what was written.
    """

    number: int
    data: bytes
    sound: bool


class Cell(NamedTuple):
    """Where a record lies: `rowid` is 0 in an index."""

    rowid: int
    size: int
    local: int
    at: int


def is_table(page: Page) -> bool:
    """Whether it is a leaf of a table."""
    return _kind(page) == _TABLE_LEAF


def is_index(page: Page) -> bool:
    """Whether it is a page of an index, or of a table without row ids."""
    return _kind(page) in (_INDEX_LEAF, _INDEX_INTERIOR)


def cells(page: Page) -> Iterator[Cell]:
    """The cells of a page of either kind; those whose place makes no sense are left out."""
    kind, head = _kind(page), _head(page)
    count = int.from_bytes(page.data[head + 3 : head + 5], "big")
    first = head + (12 if kind == _INDEX_INTERIOR else 8)
    for entry in range(first, min(first + 2 * count, PAGE - 1), 2):
        at = int.from_bytes(page.data[entry : entry + 2], "big") + (4 if kind == _INDEX_INTERIOR else 0)
        try:
            size, at = _varint(page.data, at)
            rowid, at = _varint(page.data, at) if kind == _TABLE_LEAF else (0, at)
        except IndexError:
            continue
        most = _MOST_LOCAL.get(kind, _MOST_LOCAL_OF_INDEX)
        local = size
        if size > most:
            local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (PAGE - 4)
            local = local if local <= most else _LEAST_LOCAL
        yield Cell(rowid, size, local, at)


def record(page: Page, cell: Cell, others: Mapping[int, bytes]) -> list[Any]:
    """The columns of a cell.

    Args:
        page: where it lies.
        cell: one of its `cells`.
        others: pages by number, for what did not fit.

    Raises:
        DAMAGED: it is none.
    """
    if cell.size > PAGE * (len(others) + 1):
        raise ValueError("a record larger than the file")
    content = bytearray(page.data[cell.at : cell.at + cell.local])
    following = page.data[cell.at + cell.local : cell.at + cell.local + 4]
    while len(content) < cell.size:
        overflow = others[int.from_bytes(following, "big")]
        content += overflow[4 : 4 + cell.size - len(content)]
        following = overflow[:4]
    return _columns(bytes(content))


def sound(log: bytes) -> NDArray[np.bool_]:
    """For each frame of a log whether its checksum fits, given that of the frame before it.

    A checksum is linear in the bytes that it covers, so all are computed at once.
    """
    frames = (len(log) - LOG_HEAD) // FRAME
    body = np.frombuffer(log, np.uint8, frames * FRAME, LOG_HEAD).reshape(frames, FRAME)
    order = ">u4" if int.from_bytes(log[:4], "big") == _BIG_ENDIAN_SUMS else "<u4"
    covered = np.concatenate([body[:, :8], body[:, FRAME_HEAD.size :]], axis=1).view(order).astype(np.uint32)
    stored = np.ascontiguousarray(body[:, 16:24]).view(">u4").astype(np.uint32)
    before = np.concatenate([np.frombuffer(log, ">u4", 2, 24).astype(np.uint32)[None], stored])[:-1]
    of_bytes, of_before = _weights(covered.shape[1] // 2)
    fits: NDArray[np.bool_] = (covered @ of_bytes + before @ of_before == stored).all(axis=1)
    return fits


def _weights(pairs: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """What each covered word, and each word of the checksum before, adds to the two words of a checksum."""
    one = np.array([[1, 1], [1, 2]], np.uint32)
    taken = np.array([[1, 1], [0, 1]], np.uint32)
    power = np.eye(2, dtype=np.uint32)
    found = np.empty((pairs, 2, 2), np.uint32)
    for place in range(pairs - 1, -1, -1):
        found[place] = taken @ power
        power = one @ power
    return found.reshape(2 * pairs, 2), power


def _head(page: Page) -> int:
    return _FILE_HEAD if page.number == 1 else 0


def _kind(page: Page) -> int:
    return page.data[_head(page)]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for length in range(9):
        byte = data[at + length]
        if length == 8:
            return (value << 8) | byte, at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + length + 1
    raise AssertionError


def _columns(content: bytes) -> list[Any]:
    end, at = _varint(content, 0)
    kinds, found = [], []
    while at < end:
        kind, at = _varint(content, at)
        kinds.append(kind)
    for kind in kinds:
        value, at = _value(content, at, kind)
        found.append(value)
    if at != len(content):
        raise ValueError("the record does not fill its cell")
    return found


def _value(content: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in _INTEGERS:
        end = at + _INTEGERS[kind]
        return int.from_bytes(content[at:end], "big", signed=True), end
    if kind < 12:
        raise ValueError("a kind of value that we never write")
    end = at + (kind - 12) // 2
    return (content[at:end].decode() if kind % 2 else content[at:end]), end
