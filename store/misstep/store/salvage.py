"""What can be read of a damaged segment.

SQLite's write-ahead log ends, for SQLite, at the first frame whose checksum does not fit: one flipped bit hides all
that was committed after it, and one in a root page all that it leads to. Here every version of every page that the log
holds is looked at by itself: a row's own CRC tells whether it is whole. So what is lost is what the bit lies in.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple

from misstep.store import pages
from misstep.store.pages import FRAME, FRAME_HEAD, LOG_HEAD, PAGE, Page
from misstep.store.segment import HighWater, Marks, Row, parts, raise_marks, whole

_TITLE = b"SQLite format 3\0"
_MAX_FRAME = struct.Struct("=I")
_MAX_FRAME_AT = 16


class Log(NamedTuple):
    """The frames of a write-ahead log that belong to its last run.

    Attributes:
        frames: page number and offset of the page's bytes, up to the last commit; number 0 where the head is damaged.
        behind: the same of what lies behind the last commit.
        torn: bytes at the end that belong to no frame of this run.
    """

    frames: list[tuple[int, int]]
    behind: list[tuple[int, int]]
    torn: int


class Salvage(NamedTuple):
    """What was found.

    Attributes:
        rows: whole rows, by seq.
        marks: high-water marks of the table, where it was readable, and of the rows.
        lost: positions at which there was a row, as far as that can be told.
    """

    rows: list[Row]
    marks: Marks
    lost: list[int]


def damaged(path: Path) -> bool:
    """Whether SQLite, which must have the segment open, stopped before the end of what was committed.

    Damage to the frame of the last commit can hide that it was one: then whole rows lie before it.
    """
    log = read_log(path)
    if log is None:
        return False
    if len(log.frames) > _accepted(path):
        return True
    if not log.behind:
        return False
    committed, behind = _versions(path, log)
    if all(page.sound for page in behind):
        return False
    return bool(_followers(_rows(committed, committed)[0], committed, behind, path))


def torn(path: Path) -> bool:
    """Whether the log ends in bytes that are no frame: zeroes of a power cut, or damage to the last commit."""
    log = read_log(path)
    return log is not None and log.torn > 0


def salvage(path: Path) -> Salvage:
    """Read all rows that are whole, whatever SQLite thinks of the file."""
    committed, behind = _versions(path, read_log(path) or Log([], [], 0))
    rows, broken = _rows(committed, committed)
    rows |= {row.seq: row for row in _followers(rows, committed, behind, path)}
    marks = _marks(committed)
    for row in rows.values():
        key = (row.agent, row.boot)
        if row.agent and (key not in marks or marks[key].agent_seq < row.agent_seq):
            marks[key] = HighWater(row.agent_seq, row.received)
    first = _first(path)
    end = max(rows, default=first - 1) + 1
    lost = [seq for seq in range(first, end) if seq not in rows]
    return Salvage(
        [rows[seq] for seq in sorted(rows)], marks, [*lost, *takewhile(broken.__contains__, count(end))]
    )


def unborn(path: Path) -> bool:
    """Whether the segment was killed before its first commit: nothing was ever acknowledged from it."""
    log = parts(path)[1]
    size = path.stat().st_size
    if size and (size != PAGE or not path.read_bytes().startswith(_TITLE)):
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
    if len(data) < LOG_HEAD:
        return None
    heads = [(at, FRAME_HEAD.unpack_from(data, at)) for at in range(LOG_HEAD, len(data) - FRAME + 1, FRAME)]
    salts = Counter((own, other) for _, (page, _, own, other, _, _) in heads if page and (own or other))
    run = salts.most_common(1)[0][0] if salts else (0, 0)
    frames: list[tuple[int, int]] = []
    committed = torn_bytes = 0
    for at, (page, size, own, other, _, _) in heads:
        at += FRAME_HEAD.size
        if (own, other) != run or page == 0:
            # Damage to a frame's head hides one page; the frames behind it are looked at all the same.
            torn_bytes += FRAME
            frames.append((0, at))
            continue
        torn_bytes = 0
        frames.append((page, at))
        if size:
            committed = len(frames)
    return Log(frames[:committed], frames[committed:], torn_bytes)


def _accepted(path: Path) -> int:
    index = parts(path)[2]
    data = index.read_bytes() if index.exists() else b""
    if len(data) < _MAX_FRAME_AT + _MAX_FRAME.size:
        return 0
    return int(_MAX_FRAME.unpack_from(data, _MAX_FRAME_AT)[0])


def _versions(path: Path, log: Log) -> tuple[list[Page], list[Page]]:
    """Every version of every page, oldest first: those that were committed, and those behind the last commit."""
    base = path.read_bytes() if path.exists() else b""
    found = [Page(at // PAGE + 1, base[at : at + PAGE], True) for at in range(0, len(base) - PAGE + 1, PAGE)]
    if not log.frames and not log.behind:
        return found, []
    data = parts(path)[1].read_bytes()
    sound = pages.sound(data)
    frames = []
    for place, (number, at) in enumerate([*log.frames, *log.behind]):
        # The checksum covers the number, but not the salts, for which `read_log` may have given it up.
        known = FRAME_HEAD.unpack_from(data, at - FRAME_HEAD.size)[0] if sound[place] else number
        frames.append(Page(known, data[at : at + PAGE], bool(sound[place])))
    return found + frames[: len(log.frames)], frames[len(log.frames) :]


def _rows(leaves: Iterable[Page], versions: Iterable[Page]) -> tuple[dict[int, Row], set[int]]:
    """Whole rows by seq, and positions at which there is something else.

    Args:
        leaves: pages to look for rows in.
        versions: pages in which what did not fit may lie; it is never written twice, but an unsound page may
            bear another's number.
    """
    others = {page.number: page.data for page in sorted(versions, key=lambda page: page.sound) if page.number}
    found: dict[int, Row] = {}
    broken: set[int] = set()
    for page in leaves:
        for cell in pages.cells(page) if pages.is_table(page) else ():
            if cell.rowid in found:
                continue
            try:
                _, *columns, crc = pages.record(page, cell, others)
                row = whole((cell.rowid, *columns), crc)
            except pages.DAMAGED:
                row = None
            if row is not None:
                found[row.seq] = row
            elif page.number != 1:
                broken.add(cell.rowid)
    return found, broken


def _followers(rows: Iterable[int], committed: list[Page], behind: list[Page], path: Path) -> list[Row]:
    """Whole rows of a commit that cannot be told from one that was cut short.

    Only those without a gap count: nobody would send again what is missing before a row that counts.
    """
    found, _ = _rows(behind, [*committed, *behind])
    following = count(max(rows, default=_first(path) - 1) + 1)
    return [found[seq] for seq in takewhile(found.__contains__, following)]


def _marks(versions: list[Page]) -> Marks:
    """The high-water table: marks only rise. It has no CRC, so that pages count that are sound."""
    others = {page.number: page.data for page in versions if page.sound}
    found: Marks = {}
    for page in versions:
        for cell in pages.cells(page) if page.sound and pages.is_index(page) else ():
            try:
                columns = pages.record(page, cell, others)
            except pages.DAMAGED:
                continue
            match columns:
                case [str(agent), str(boot), int(seq), int(received)]:
                    raise_marks(found, {(agent, boot): HighWater(seq, received)})
    return found


def _first(path: Path) -> int:
    """The seq that its first row was to have."""
    return int(path.name[:20])
