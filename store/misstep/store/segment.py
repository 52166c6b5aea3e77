"""One file of the journal: a SQLite database in WAL mode whose commits are on disk before they are answered.

A segment is never checkpointed while it is written: its write-ahead log is the journal, and the file
is deleted when the lake has its rows. Each row has a CRC over all its columns, so that a flipped byte
is seen wherever SQLite itself does not look.

Every segment carries the whole high-water table: a new segment begins with a copy of it, in the
transaction that creates the segment, and each append raises it in the transaction that stores the rows.
So the newest segment always knows it, and no commit spans two files (in WAL mode SQLite would not make that atomic).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from misstep.core.errors import StorageError
from misstep.store.schema import VERSION

SUFFIX = ".sqlite"

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE requests(seq INTEGER PRIMARY KEY, received INTEGER NOT NULL, signal TEXT NOT NULL, agent TEXT NOT NULL,
  boot TEXT NOT NULL, agent_seq INTEGER NOT NULL, encoding TEXT NOT NULL, verdict BLOB NOT NULL, payload BLOB NOT NULL,
  crc INTEGER NOT NULL);
CREATE TABLE high_water(agent TEXT NOT NULL, boot TEXT NOT NULL, agent_seq INTEGER NOT NULL, received INTEGER NOT NULL,
  PRIMARY KEY (agent, boot)) WITHOUT ROWID;
"""
_VALUES = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_TOGETHER = (64, 16, 4, 1)
"""How many rows one statement inserts; few sizes, so that SQLite's driver keeps them all prepared."""

_COLUMNS = "seq, received, signal, agent, boot, agent_seq, encoding, verdict, payload, crc"


class Row(NamedTuple):
    """A request as the journal keeps it; `payload` is encoded as it came."""

    seq: int
    received: int
    signal: str
    agent: str
    boot: str
    agent_seq: int
    encoding: str
    verdict: bytes
    payload: bytes

    def crc(self) -> int:
        """CRC-32 over all columns."""
        texts = f"{self.signal}\0{self.agent}\0{self.boot}\0{self.encoding}".encode("utf-8", "surrogatepass")
        numbers = struct.pack("<qqqI", self.seq, self.received, self.agent_seq, len(self.verdict))
        return zlib.crc32(self.payload, zlib.crc32(self.verdict, zlib.crc32(numbers + texts)))


class HighWater(NamedTuple):
    """The last `agent_seq` stored of an agent's spool, and when it came."""

    agent_seq: int
    received: int


Marks = dict[tuple[str, str], HighWater]


class Segment:
    """An open segment. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open a segment that exists, or an empty one for `create`.

        Raises:
            sqlite3.Error: the file is damaged or the disk refuses.
        """
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA wal_autocheckpoint=0")
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def create(cls, path: Path, first: int, received: int, marks: Marks, rows: Sequence[Row] = ()) -> Segment:
        """Start a segment in one transaction.

        Args:
            path: where; what is there is replaced.
            first: the seq its first row will have.
            received: last time of receipt that was given out.
            marks: the high-water table so far.
            rows: rows it begins with.

        Raises:
            sqlite3.Error: the disk refuses; nothing is left behind.
        """
        remove(path)
        segment = cls(path)
        try:
            segment._begin(first, received, marks, rows)
            _sync_folder(path.parent)
        except BaseException:
            segment.remove()
            raise
        return segment

    def append(self, rows: Sequence[Row], marks: Marks) -> None:
        """Store rows and raise high-water marks, all or nothing, on disk when it returns.

        Raises:
            sqlite3.Error: the disk refuses; nothing is stored.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(rows)
            self._mark(marks)
            self._db.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """Leave a transaction that failed."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def check(self) -> int:
        """The seq its first row was to have.

        Raises:
            StorageError: it is of a newer version.
            sqlite3.Error: it is damaged.
        """
        meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("version", 0) > VERSION:
            raise StorageError(
                f"{self.path} was written by a newer Misstep; upgrade, or use another data folder"
            )
        if not {"version", "first", "received"} <= meta.keys():
            raise sqlite3.DatabaseError("the segment has no head")
        return int(meta["first"])

    def received(self) -> int:
        """Last time of receipt that was given out, as far as this segment knows."""
        head = self._db.execute("SELECT value FROM meta WHERE key = 'received'").fetchone()
        last = self._db.execute("SELECT received FROM requests ORDER BY seq DESC LIMIT 1").fetchone()
        return max(int(head[0]) if head else 0, int(last[0]) if last else 0)

    def last(self) -> int:
        """The seq of its last row, or the one before its first if it is empty."""
        row = self._db.execute("SELECT max(seq) FROM requests").fetchone()
        return int(row[0]) if row[0] is not None else self.check() - 1

    def marks(self) -> Marks:
        """The high-water table."""
        rows = self._db.execute("SELECT agent, boot, agent_seq, received FROM high_water").fetchall()
        return {(agent, boot): HighWater(seq, received) for agent, boot, seq, received in rows}

    def rows(self, after: int) -> Iterator[Row | None]:
        """Rows with a greater seq, in order; None for one whose CRC does not fit.

        Raises:
            sqlite3.Error: a page is damaged; what follows is not reachable this way.
        """
        query = f"SELECT {_COLUMNS} FROM requests WHERE seq > ? ORDER BY seq"
        for *columns, crc in self._db.execute(query, (after,)):
            yield whole(columns, crc)

    def row(self, seq: int) -> Row | None:
        """One row, or None if it is not there or not whole.

        Raises:
            sqlite3.Error: a page is damaged.
        """
        found = self._db.execute(f"SELECT {_COLUMNS} FROM requests WHERE seq = ?", (seq,)).fetchone()
        return whole(found[:-1], found[-1]) if found else None

    def size(self) -> int:
        """Bytes on disk."""
        return sum(p.stat().st_size for p in parts(self.path) if p.exists())

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def remove(self) -> None:
        """Delete it. SQLite copies the log into the database when it closes, unless the database is gone: so delete first."""
        remove(self.path)
        self._db.close()

    def move(self, folder: Path) -> None:
        """Put its files into another folder, as they are, and let go of them."""
        for part in parts(self.path):
            if part.exists():
                part.replace(folder / part.name)
        self._db.close()

    def _begin(self, first: int, received: int, marks: Marks, rows: Sequence[Row]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";")[:-1]:
            self._db.execute(statement)
        head = [("version", VERSION), ("first", first), ("received", received)]
        self._db.executemany("INSERT INTO meta VALUES (?, ?)", head)
        self._insert(rows)
        self._mark(marks)
        self._db.execute("COMMIT")

    def _insert(self, rows: Sequence[Row]) -> None:
        # Each statement lets go of the interpreter, and who holds it then may keep it for milliseconds.
        at = 0
        while at < len(rows):
            count = next(size for size in _TOGETHER if at + size <= len(rows))
            some = [value for row in rows[at : at + count] for value in (*row, row.crc())]
            self._db.execute(f"INSERT INTO requests VALUES {', '.join([_VALUES] * count)}", some)
            at += count

    def _mark(self, marks: Marks) -> None:
        values = [(agent, boot, *mark) for (agent, boot), mark in marks.items()]
        self._db.executemany("INSERT OR REPLACE INTO high_water VALUES (?, ?, ?, ?)", values)


def whole(columns: Iterable[object], crc: int) -> Row | None:
    """The row, if it is what was written."""
    try:
        row = Row(*columns)  # type: ignore[arg-type]  # what a damaged file holds is found out here
        return row if row.crc() == crc else None
    except (TypeError, AttributeError, struct.error):
        return None


def raise_marks(marks: Marks, others: Marks) -> None:
    """Keep the higher of both, in the first."""
    for key, mark in others.items():
        if key not in marks or marks[key].agent_seq < mark.agent_seq:
            marks[key] = mark


def path_of(folder: Path, first: int) -> Path:
    """Where the segment lies whose first row has this seq."""
    return folder / f"{first:020d}{SUFFIX}"


def parts(path: Path) -> list[Path]:
    """The files of a segment; the database first, without which SQLite ignores the others."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def remove(path: Path) -> None:
    """Delete a segment."""
    for part in parts(path):
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
