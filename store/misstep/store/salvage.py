"""What can be read of a damaged segment.

SQLite's write-ahead log ends, for SQLite, at the first frame whose checksum does not fit: one flipped bit hides all
that was committed after it. Here the frames are laid over the database without that chain; a row's own CRC
tells whether it is whole. Format: https://sqlite.org/fileformat2.html#the_write_ahead_log and
https://sqlite.org/walformat.html#the_wal_index_file_format
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from misstep.store.segment import HighWater, Marks, Row, parts, whole

_LOG_HEAD = 32
_FRAME_HEAD = struct.Struct(">IIIIII")
_TITLE = b"SQLite format 3\0"
_MAX_FRAME = struct.Struct("=I")
_MAX_FRAME_AT = 16
_PAGE = 4096
"""Bytes; SQLite's default, which we never change."""
_GIVE_UP = 5_000
"""Positions in a row at which nothing is found before the search ends."""


class Log(NamedTuple):
    """The frames of a write-ahead log that belong to its last run.

    Attributes:
        frames: page number and offset of the page's bytes, up to the last commit.
        torn: bytes after them that belong to no frame of this run.
    """

    frames: list[tuple[int, int]]
    torn: int


class Salvage(NamedTuple):
    """What was found.

    Attributes:
        rows: whole rows, by seq.
        marks: high-water marks of the table, where it was readable, and of the rows.
        lost: positions between the first and the last row at which there should be a row.
    """

    rows: list[Row]
    marks: Marks
    lost: int


def damaged(path: Path) -> bool:
    """Whether SQLite, which must have the segment open, stopped before the last commit in the log."""
    log = read_log(path)
    return log is not None and len(log.frames) > _accepted(path)


def torn(path: Path) -> bool:
    """Whether the log ends in bytes that are no frame: zeroes of a power cut, or damage to the last commit."""
    log = read_log(path)
    return log is not None and log.torn > 0


def salvage(path: Path) -> Salvage:
    """Read all rows that are whole, whatever SQLite thinks of the file."""
    image = _image(path)
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        db.deserialize(bytes(image))
        rows = _rows(db)
        marks = _marks(db)
    except sqlite3.Error:
        rows, marks = [], {}
    finally:
        db.close()
    for row in rows:
        key = (row.agent, row.boot)
        if row.agent and (key not in marks or marks[key].agent_seq < row.agent_seq):
            marks[key] = HighWater(row.agent_seq, row.received)
    return Salvage(rows, marks, rows[-1].seq - rows[0].seq + 1 - len(rows) if rows else 0)


def unborn(path: Path) -> bool:
    """Whether the segment was killed before its first commit: nothing was ever acknowledged from it."""
    log = parts(path)[1]
    size = path.stat().st_size
    if size and (size != _PAGE or not path.read_bytes().startswith(_TITLE)):
        return False
    if not log.exists() or log.stat().st_size == 0:
        return True
    found = read_log(path)
    return found is not None and not found.frames and not found.torn


def read_log(path: Path) -> Log | None:
    """The frames of a segment's write-ahead log; None if there is none.

    The log's own head is not needed: a segment is never checkpointed while it is written, so its page size is
    ours, and the salts that most frames have are those of its only run.
    """
    log = parts(path)[1]
    data = log.read_bytes() if log.exists() else b""
    if len(data) < _LOG_HEAD:
        return None
    step = _FRAME_HEAD.size + _PAGE
    heads = [(at, _FRAME_HEAD.unpack_from(data, at)) for at in range(_LOG_HEAD, len(data) - step + 1, step)]
    salts = Counter((own, other) for _, (page, _, own, other, _, _) in heads if page and (own or other))
    run = salts.most_common(1)[0][0] if salts else (0, 0)
    frames: list[tuple[int, int]] = []
    committed = torn_bytes = 0
    for at, (page, size, own, other, _, _) in heads:
        if (own, other) != run or page == 0:
            # Damage to a frame's head hides one page; the frames behind it are looked at all the same.
            torn_bytes += step
            frames.append((0, at))
            continue
        torn_bytes = 0
        frames.append((page, at + _FRAME_HEAD.size))
        if size:
            committed = len(frames)
    return Log(frames[:committed], torn_bytes)


def _accepted(path: Path) -> int:
    index = parts(path)[2]
    data = index.read_bytes() if index.exists() else b""
    if len(data) < _MAX_FRAME_AT + _MAX_FRAME.size:
        return 0
    return int(_MAX_FRAME.unpack_from(data, _MAX_FRAME_AT)[0])


def _image(path: Path) -> bytearray:
    """The database as it would stand after a checkpoint of every frame."""
    image = bytearray(path.read_bytes()) if path.exists() else bytearray()
    log = read_log(path)
    if log is not None:
        data = parts(path)[1].read_bytes()
        for page, at in log.frames:
            if page == 0:
                continue
            end = page * _PAGE
            if len(image) < end:
                image.extend(bytes(end - len(image)))
            image[end - _PAGE : end] = data[at : at + _PAGE]
    if len(image) >= _PAGE:
        image[18:20] = b"\x01\x01"  # read and write version: rollback journal, for an image has no log
        struct.pack_into(">I", image, 28, len(image) // _PAGE)
    return image


def _rows(db: sqlite3.Connection) -> list[Row]:
    found: dict[int, Row] = {}
    try:
        for *columns, crc in db.execute(f"SELECT {_COLUMNS} FROM requests ORDER BY seq"):
            row = whole(columns, crc)
            if row is not None:
                found[row.seq] = row
    except sqlite3.Error:
        _one_by_one(db, found)
    return [found[seq] for seq in sorted(found)]


def _one_by_one(db: sqlite3.Connection, found: dict[int, Row]) -> None:
    """Ask for each position by itself: a damaged page hides only its own rows."""
    seq, missed = max(found, default=_first(db)), 0
    while missed < _GIVE_UP:
        seq += 1
        try:
            answer = db.execute(f"SELECT {_COLUMNS} FROM requests WHERE seq = ?", (seq,)).fetchone()
            row = whole(answer[:-1], answer[-1]) if answer else None
        except sqlite3.Error:
            row = None
        missed = 0 if row is not None else missed + 1
        if row is not None:
            found[row.seq] = row


def _first(db: sqlite3.Connection) -> int:
    try:
        row = db.execute("SELECT value FROM meta WHERE key = 'first'").fetchone()
    except sqlite3.Error:
        row = None
    return int(row[0]) - 1 if row else 0


def _marks(db: sqlite3.Connection) -> Marks:
    try:
        rows = db.execute("SELECT agent, boot, agent_seq, received FROM high_water").fetchall()
        return {(agent, boot): HighWater(int(seq), int(received)) for agent, boot, seq, received in rows}
    except (sqlite3.Error, TypeError, ValueError):
        return {}


_COLUMNS = "seq, received, signal, agent, boot, agent_seq, encoding, verdict, payload, crc"
