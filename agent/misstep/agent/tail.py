"""Follows one file that others write: by inode and offset, through rotation and truncation, line by line."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from typing import NamedTuple

LINE_LIMIT = 16 * 1024
"""Bytes of a line; what is longer is cut and marked."""
CUT = b" [... cut]"
_READ = 256 * 1024


class Line(NamedTuple):
    """A line without its end, and the offset of its first byte."""

    offset: int
    text: bytes


class Tail:
    """One file.

    Args:
        path: the name under which it is written; what was rotated away is looked for at ``<path>.1``.
        inode: where an earlier run stood, 0 to begin afresh.
        offset: the same.
        owner: user id whose file it must be, so that nobody has root read for him what he may not; None for anybody's.

    Attributes:
        inode: of the file that `offset` is in.
        offset: up to which lines were given out.
        truncated: how often the file became shorter than what had been read of it, or was rotated away unread.
        skipped: bytes passed over by `skip_to`.
        unfinished: bytes that the last `lines` left behind the last complete line.
    """

    def __init__(self, path: str, inode: int = 0, offset: int = 0, owner: int | None = None) -> None:
        self.path = path
        self.owner = owner
        self.inode = inode
        self.offset = offset
        self.truncated = 0
        self.skipped = 0
        self.unfinished = 0
        self._in_long = False

    def pending(self) -> int:
        """Bytes that can be read now; 0 when there are none or the file is gone."""
        try:
            status = os.stat(self.path)
        except OSError:
            return 0
        if status.st_ino != self.inode:
            return max(1, status.st_size) if self.inode else status.st_size
        return status.st_size - self.offset if status.st_size >= self.offset else max(1, status.st_size)

    def skip_to(self, tail: int) -> None:
        """Pass over all but the last `tail` bytes of the present file, and what they begin with of a line."""
        held = self._open()
        if held < 0:
            return
        try:
            status = os.fstat(held)
            offset = self.offset if status.st_ino == self.inode else 0
            if status.st_size - offset > tail:
                end = status.st_size - tail
                self.skipped += end - offset
                self.inode, self.offset = status.st_ino, end
                self._in_long = os.pread(held, 1, end - 1) != b"\n"
        finally:
            os.close(held)

    def lines(self, budget: int, last: bool = False) -> Iterator[Line]:
        """Complete lines, at most `budget` bytes of them.

        Args:
            last: nobody writes any more; an unfinished line counts as one.
        """
        held = self._open()
        if held < 0:
            return
        try:
            status = os.fstat(held)
            if status.st_ino != self.inode:
                if self.inode:
                    budget -= yield from self._rest(budget)
                self.inode, self.offset, self._in_long = status.st_ino, 0, False
            elif status.st_size < self.offset:
                self.truncated += 1
                self.offset, self._in_long = 0, False
            yield from self._read(held, min(budget, status.st_size - self.offset), last)
        finally:
            os.close(held)

    def _open(self) -> int:
        """A descriptor; -1 for what is not there, no plain file (to open a pipe would wait), or not the owner's."""
        try:
            held = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return -1
        status = os.fstat(held)
        if stat.S_ISREG(status.st_mode) and self.owner in (None, status.st_uid):
            return held
        os.close(held)
        return -1

    def _rest(self, budget: int) -> Generator[Line, None, int]:
        """What was still unread when the file was rotated away; returns how much that was."""
        before = self.offset
        try:
            with open(self.path + ".1", "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if status.st_ino == self.inode:
                    yield from self._read(
                        file.fileno(), min(max(budget, _READ), status.st_size - before), True
                    )
                else:
                    self.truncated += 1
        except OSError:
            self.truncated += 1
        return self.offset - before

    def _read(self, file: int, budget: int, last: bool) -> Iterator[Line]:
        held = b""
        place = self.offset
        while budget > 0:
            asked = min(_READ, budget)
            data = os.pread(file, asked, place)
            place += len(data)
            budget -= len(data)
            held += data
            start = 0
            while (end := held.find(b"\n", start)) >= 0:
                text, at = held[start:end], self.offset
                start = end + 1
                self.offset += len(text) + 1
                if self._in_long:
                    self._in_long = False
                else:
                    yield Line(at, _cut(text.rstrip(b"\r")))
            held = held[start:]
            if len(held) > LINE_LIMIT:
                at, self.offset = self.offset, self.offset + len(held)
                if not self._in_long:
                    yield Line(at, held[:LINE_LIMIT] + CUT)
                self._in_long, held = True, b""
            if len(data) < asked:
                break
        if last and held:
            at, self.offset = self.offset, self.offset + len(held)
            if not self._in_long:
                yield Line(at, held)
            held = b""
        self.unfinished = len(held)


def _cut(text: bytes) -> bytes:
    return text if len(text) <= LINE_LIMIT else text[:LINE_LIMIT] + CUT
