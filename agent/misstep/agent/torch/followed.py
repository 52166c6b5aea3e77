"""One file that ranks or their launcher write, and which line of it is whose."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from misstep.agent import procfs
from misstep.agent.otlp import Value, attribute, record_attributes
from misstep.agent.tail import Tail
from misstep.core import names
from misstep.core.clock import SECOND

BACKLOG = 512 * 1024
"""Bytes that are read of what was written before we came; what lies before them is passed over."""
_RATE, _BURST = 200.0, 2000.0
_APPENDS = os.O_APPEND
SOURCE = "training_logs"


class Holder(NamedTuple):
    """A process of a job; the main thread describes it, the thread of logs reads what it writes.

    Attributes:
        entity: of the rank; empty for a launcher.
        rank: -1 for a launcher.
        user: its owner.
        hooked: whether it tells of its exceptions itself.
    """

    pid: int
    start: int
    process: str
    entity: str
    session: str
    rank: int
    local: int
    user: int
    hooked: bool
    debug_file: str
    error_file: str


class Followed:
    """A file and how far it was read.

    Args:
        path: as this process opens it.
        shown: as its writers call it.
        owner: user id of its writers.
        now: Unix nanoseconds.

    Attributes:
        holders: who has it open, by pid; the last ones stay when they are gone.
        left: when the last of them went, monotonic nanoseconds; 0 while one lives.
    """

    def __init__(self, path: str, shown: str, owner: int, session: str, now: int) -> None:
        self.tail = Tail(path, owner=owner)
        self.shown, self.session = shown, session
        self.holders: dict[int, Holder] = {}
        self.left = 0
        self.dropped = 0
        self._tokens, self._refilled = _BURST, now
        self._encoded: dict[int, bytes] = {}

    @property
    def cursor(self) -> str:
        """Where it stands, as kept in the spool: a JSON array."""
        return f"[{self.tail.inode},{self.tail.offset}]"

    def resume(self, cursor: str) -> None:
        """Go on where an earlier run stood."""
        try:
            inode, offset = json.loads(cursor)
            self.tail.inode, self.tail.offset = int(inode), int(offset)
        except (ValueError, TypeError):
            pass  # of another version: begin afresh

    def begin(self, appended: bool) -> None:
        """Where to begin: what others wrote into it before is not of this job."""
        self.tail.skip_to(0 if appended else BACKLOG)
        if appended:
            self.tail.skipped = 0

    def hold(self, holders: Iterable[Holder], now: int) -> None:
        """Who writes into it now; monotonic nanoseconds."""
        held = {one.pid: one for one in holders}
        if not held:
            self.left = self.left or now
            return
        self.left = 0
        if held != self.holders:
            self.holders = held
            self._encoded.clear()

    def whose(self, rank: int, local: int, pid: int, job: Iterable[Holder]) -> Holder | None:
        """The process that a line is of, by what the line says, else the only rank that writes here.

        Args:
            job: the processes of the job, the newest first, those that ended included.
        """
        for holder in job:
            if pid:
                if pid == holder.pid:
                    return holder
            elif rank >= 0:
                if rank == holder.rank:
                    return holder
            elif 0 <= local == holder.local:
                return holder
        ranks = [one for one in self.holders.values() if one.rank >= 0]
        return ranks[0] if len(ranks) == 1 and rank < 0 and local < 0 and not pid else None

    def attributes(self, holder: Holder | None, offset: int) -> bytes:
        """Of a line at this offset."""
        key = holder.pid if holder is not None else 0
        held = self._encoded.get(key)
        if held is None:
            told: dict[str, Value] = {
                names.FILE_PATH: self.shown, names.SESSION: self.session, names.SOURCE: SOURCE,
            }  # fmt: skip
            if holder is not None:
                told |= {names.ENTITY: holder.entity or holder.process, names.PID: holder.pid}
                told |= {names.RANK: holder.rank} if holder.rank >= 0 else {}
            held = self._encoded[key] = record_attributes(told)
        return held + attribute(0x32, names.FILE_OFFSET, offset)

    def admit(self, now: int) -> bool:
        """Whether its rate allows one more line."""
        self._tokens = min(_BURST, self._tokens + max(0, now - self._refilled) / SECOND * _RATE)
        self._refilled = now
        if self._tokens < 1.0:
            self.dropped += 1
            return False
        self._tokens -= 1.0
        return True


class Place(NamedTuple):
    """A file that a process writes, as we can open it; `appended` where others may have written into it before."""

    path: str
    shown: str
    owner: int
    appended: bool


def outputs(pid: int) -> Iterable[Place]:
    """stdout and stderr of a process, where they are plain files of its own user, each once."""
    found: dict[str, Place] = {}
    for number in ("1", "2"):
        door = f"/proc/{pid}/fd/{number}"
        try:
            held, shown = os.stat(door), os.readlink(door)
            if stat.S_ISREG(held.st_mode) and held.st_uid == os.stat(f"/proc/{pid}").st_uid:
                path = _reach(pid, shown, held)
                if path:
                    found[path] = Place(path, shown, held.st_uid, _is_appended(pid, number))
        except OSError:
            continue  # gone, or not ours to see
    return found.values()


def named(pid: int, shown: str, host: str) -> Place | None:
    """A file that the environment of a process names: %h and %p as NCCL fills them in, relative to its folder."""
    shown = shown.replace("%h", host).replace("%p", str(pid))
    try:
        if not shown.startswith("/"):
            shown = os.path.join(os.readlink(f"/proc/{pid}/cwd"), shown)
        owner = os.stat(f"/proc/{pid}").st_uid
        held = os.stat(f"/proc/{pid}/root{shown}")
    except OSError:
        return None
    if not stat.S_ISREG(held.st_mode) or held.st_uid != owner:
        return None
    path = _reach(pid, shown, held)
    return Place(path, shown, owner, False) if path else None


def small(path: str, owner: int, limit: int) -> tuple[int, bytes]:
    """When a small file was written, Unix nanoseconds, and what it holds.

    Raises:
        OSError: it is not there, no plain file, another user's, or larger.
    """
    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(held)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_size > limit:
            raise OSError(errno.EACCES, "not a small file of its own", path)
        return status.st_mtime_ns, os.read(held, limit)
    finally:
        os.close(held)


def _reach(pid: int, shown: str, held: os.stat_result) -> str:
    """How we can open it: by its name here, or through the process's own root where that is another; else empty."""
    for path in (shown, f"/proc/{pid}/root{shown}"):
        try:
            here = os.stat(path)
        except OSError:
            continue
        if (here.st_dev, here.st_ino) == (held.st_dev, held.st_ino):
            return path
    return ""  # deleted


def _is_appended(pid: int, number: str) -> bool:
    for line in procfs.read(f"/proc/{pid}/fdinfo/{number}", 512).splitlines():
        if line.startswith(b"flags:"):
            return bool(int(line.split()[1], 8) & _APPENDS)
    return False
