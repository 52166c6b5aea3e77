"""The journal: what was acknowledged, in order, on disk before the answer.

It is a folder of segments (`segment`). Appends go to the newest; a sealed segment is deleted. A
segment that was not closed by us is only read: each opening of the journal starts a new one, whose first seq also
says where the one before ended, so that the remains of a commit that failed there never count.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from misstep.core.errors import StorageError
from misstep.store import salvage
from misstep.store.segment import SUFFIX, Marks, Row, Segment, parts, path_of, raise_marks, remove

SEGMENT_BYTES = 64 * 1024 * 1024
"""A segment that has grown so large is followed by a new one, whether or not the lake could take it."""

_RESCUED = "-rescued"

_log = logging.getLogger(__name__)


class Journal:
    """One thread at a time.

    Attributes:
        marks: high-water per (agent, boot) of all that is stored.
        next_seq: position of the next row.
        received: last time of receipt that was given to a row.
        counts: damage met and answered, for `Store.stats`.
    """

    def __init__(self, folder: Path, *, position: int, received: int, marks: Marks) -> None:
        """Open the journal in `folder`.

        Args:
            folder: made if it is not there.
            position: seq up to which the lake has everything.
            received: a time of receipt that the next must exceed.
            marks: high-water marks that the lake knows.

        Raises:
            StorageError: the disk refuses, or a newer version wrote this journal.
        """
        self._folder = folder
        self._quarantine = folder.parent / "quarantine"
        self.marks: Marks = dict(marks)
        self.received = received
        self.counts: Counter[str] = Counter()
        self._old: list[Segment] = []
        self._current: Segment | None = None
        self._bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._read_segments(position)
            self._start_segment()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StorageError(f"cannot open the journal in {folder}: {error}") from error

    def pending(self, after: int) -> Iterator[Row]:
        """Rows of earlier runs with a greater seq, in order, each once."""
        last = after
        for index, segment in enumerate(self._old):
            end = self._first[index + 1] if index + 1 < len(self._first) else self.next_seq
            for row in segment.rows(last):
                if row is not None and last < row.seq < end:
                    last = row.seq
                    yield row

    def append(self, rows: Sequence[Row], marks: Marks) -> None:
        """Store rows, whose seqs follow `next_seq`, with the marks they raise; on disk when it returns.

        Raises:
            StorageError: nothing was stored. The journal can be used again when the disk can.
        """
        try:
            if self._current is None or self._bytes >= SEGMENT_BYTES:
                self.rotate()
            if self._current is None:
                self._start_segment()
            assert self._current is not None
            self._current.append(rows, marks)
        except (OSError, sqlite3.Error) as error:
            self.counts["journal_errors"] += 1
            self._set_aside()
            raise StorageError(f"the journal in {self._folder} cannot be written: {error}") from error
        self.next_seq = rows[-1].seq + 1
        self.received = rows[-1].received
        raise_marks(self.marks, marks)
        self._bytes += sum(len(row.payload) + 200 for row in rows)

    def rotate(self) -> None:
        """Let the next append start a new segment; nothing happens if this one is empty.

        Raises:
            sqlite3.Error, OSError: the disk refuses; the old segment goes on.
        """
        if self._current is None or self._first[-1] == self.next_seq:
            return
        current = self._current
        self._start_segment()
        self._old.append(current)

    def drop(self, position: int) -> None:
        """Delete segments all of whose rows have a seq up to `position`."""
        while self._old and len(self._first) > 1 and self._first[1] <= position + 1:
            segment = self._old.pop(0)
            self._first.pop(0)
            segment.remove()

    def size(self) -> int:
        """Bytes on disk."""
        found = 0
        for path in self._folder.iterdir():
            try:
                found += path.stat().st_size
            except FileNotFoundError:
                continue
        return found

    def segments(self) -> int:
        """How many files."""
        return len(self._first)

    def close(self) -> None:
        """Let go of all files."""
        for segment in [*self._old, *([self._current] if self._current else [])]:
            segment.close()
        self._old, self._current = [], None

    def _start_segment(self) -> None:
        path = path_of(self._folder, self.next_seq)
        if self._old and self._old[-1].path == path:
            # The newest segment has no row that counts: what its failed commit left must not return.
            self._old.pop().remove()
            self._first.pop()
        self._current = Segment.create(path, self.next_seq, self.received, self.marks)
        self._first.append(self.next_seq)
        self._bytes = 0

    def _set_aside(self) -> None:
        """After a refused write: this segment takes no more, the next append starts another."""
        if self._current is not None:
            self._old.append(self._current)
            self._current = None

    def _read_segments(self, position: int) -> None:
        self._first: list[int] = []
        self.next_seq = position + 1
        self._sweep()
        newest: Marks = {}
        found: list[tuple[int, Segment]] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            opened = self._open(path)
            if opened is not None:
                segment, whole = opened
                found.append((segment.check(), segment))
                if whole:
                    newest = segment.marks()
                else:
                    raise_marks(newest, segment.marks())
        raise_marks(self.marks, newest)
        self._old = [segment for _, segment in found]
        self._first = [first for first, _ in found]
        for segment in self._old:
            self.next_seq = max(self.next_seq, segment.last() + 1)
            self.received = max(self.received, segment.received())

    def _sweep(self) -> None:
        """Clear what a deletion or a rescue left that was cut short."""
        for path in sorted(self._folder.glob(f"*{_RESCUED}{SUFFIX}")):
            if path.with_name(path.name.removesuffix(_RESCUED + SUFFIX) + SUFFIX).exists():
                remove(path)
        for path in list(self._folder.iterdir()):
            base = path.name.removesuffix("-wal").removesuffix("-shm")
            if base != path.name and not (self._folder / base).exists():
                path.unlink()

    def _open(self, path: Path) -> tuple[Segment, bool] | None:
        """A segment to read, and whether it was undamaged; None if there is nothing in it."""
        if salvage.unborn(path):
            remove(path)
            return None
        segment = None
        try:
            segment = Segment(path)
            segment.check()
            if salvage.torn(path):
                self.counts["journal_torn_tails"] += 1
            if not salvage.damaged(path) and all(row is not None for row in segment.rows(0)):
                return segment, True
        except sqlite3.Error:
            pass
        return self._rescue(path, segment)

    def _rescue(self, path: Path, segment: Segment | None) -> tuple[Segment, bool] | None:
        """Write what is whole into a new segment, and only then put the damaged one aside."""
        self.counts["journal_damaged_segments"] += 1
        found = salvage.salvage(path)
        self.counts["journal_lost_rows"] += len(found.lost)
        rescued = None
        if found.rows or found.marks:
            first = found.rows[0].seq if found.rows else int(path.name[:20])
            beside = path.with_name(path.stem + _RESCUED + SUFFIX)
            # A row may be lost whose mark is not.
            received = max([self.received, *(mark.received for mark in found.marks.values())])
            rescued = Segment.create(beside, first, received, found.marks, found.rows)
        self._quarantine.mkdir(exist_ok=True)
        if found.lost:
            self.next_seq = max(self.next_seq, found.lost[-1] + 1)
            _log.warning("%s is damaged; lost are the requests at positions %s", path, found.lost)
            (self._quarantine / f"{path.stem}.lost").write_text("".join(f"{seq}\n" for seq in found.lost))
        if segment is not None:
            segment.move(self._quarantine)
        else:
            for part in parts(path):
                if part.exists():
                    part.replace(self._quarantine / part.name)
        return (rescued, False) if rescued is not None else None
