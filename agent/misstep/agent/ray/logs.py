"""Follows the files of each Ray session's logs folder, to the end and past the session's own.

Ray keeps the folder when a session dies; what the last second wrote is read then.
"""

from __future__ import annotations

import json
import os

from misstep.agent.context import Context
from misstep.agent.otlp import Value, attribute, record_attributes
from misstep.agent.probe import OK, SourceState, failing
from misstep.agent.ray import logfiles, submissions
from misstep.agent.ray.logfiles import ALL, EVENTS, SUBMISSIONS, LogFile
from misstep.agent.ray.session import RaySession
from misstep.agent.ray.sessions import RaySessions
from misstep.agent.records import WARNING, Records
from misstep.agent.tail import Line, Tail
from misstep.core import names
from misstep.core.clock import SECOND

_CURSOR = "ray_logs:"
_FOLDERS = ("", "events", "export_events")
_LIST_EVERY = 5 * SECOND
_TICK_BYTES = 2 * 1024 * 1024
_FILE_BYTES = 512 * 1024
_BACKLOG = 8 * 1024 * 1024
_KEEP_OF_BACKLOG = 512 * 1024
_LINES_PER_SECOND = 200.0
_BURST = 2000.0
_QUIET = 3 * SECOND
_IDLE = 60 * SECOND
_CONTINUED = 60
"""Lines of a stack that are taken after the line that it belongs to."""
_OLD = 600 * SECOND
_MARKED = {
    "task_name": names.RAY_TASK_NAME,
    "actor_name": names.RAY_ACTOR_CLASS,
    "job_id": names.RAY_JOB,
}


class _File:
    """One followed file and what its marker lines said last."""

    def __init__(self, path: str, file: LogFile, session: str, folder: str, now: int) -> None:
        self.tail = Tail(os.path.join(folder, path))
        self.file = file
        self._base: dict[str, Value] = {
            names.FILE_PATH: self.tail.path, names.SESSION: session, names.SOURCE: "ray_logs",
        }  # fmt: skip
        self._base |= file.attributes
        self._encoded = b""
        self.marks: dict[str, str] = {}
        self.changed = now
        self.next = 0
        self.tokens = _BURST
        self.refilled = now
        self.following = 0
        self.dropped = 0

    @property
    def cursor(self) -> str:
        """Where it stands, as kept in the spool: a JSON array."""
        return f"[{self.tail.inode},{self.tail.offset},{json.dumps(self.marks) if self.marks else '{}'}]"

    def attributes(self, offset: int) -> bytes:
        """Of a line at this offset."""
        if not self._encoded:
            self._encoded = record_attributes(self._base)
        return self._encoded + attribute(0x32, names.FILE_OFFSET, offset)

    def resume(self, cursor: str) -> None:
        """Go on where an earlier run stood."""
        try:
            inode, offset, marks = json.loads(cursor)
            self.tail.inode, self.tail.offset = int(inode), int(offset)
            for key, value in dict(marks).items():
                self.mark(str(key), str(value))
        except (ValueError, TypeError):
            pass  # a cursor of another version: begin afresh, copies are the lesser evil

    def mark(self, key: str, value: str) -> None:
        """Remember a marker line; the lines after it belong to that task, actor or job."""
        self.marks[key] = value
        key = _MARKED[key]
        self._base[key] = value
        self._encoded = b""

    def admit(self, now: int) -> bool:
        """Whether the file's rate allows one more line."""
        self.tokens = min(_BURST, self.tokens + max(0, now - self.refilled) / SECOND * _LINES_PER_SECOND)
        self.refilled = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class RayLogs:
    """Probe of the log files."""

    source = "ray_logs"
    interval = 2.0
    follows_events = True

    def __init__(self, context: Context, sessions: RaySessions) -> None:
        self._context = context
        self._sessions = sessions
        self._files: dict[str, dict[str, _File]] = {}
        self._next_list: dict[str, int] = {}
        self._known: dict[str, str] | None = None

    def supported(self) -> SourceState:
        """Always; which session's folder cannot be read is told per session."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read what is new in every session's files."""
        if self._known is None:
            self._known = self._context.spool.cursors(_CURSOR)
        live = {one.name: one for one in self._sessions.all()}
        for name in [name for name in self._files if name not in live]:
            self._forget(name, out)
        budget = _TICK_BYTES
        for one in live.values():
            budget = self._session(one, now, budget, out)
        return None

    def close(self) -> None:
        """No file is held open."""

    def _forget(self, name: str, out: Records) -> None:
        for file in self._files.pop(name).values():
            out.cursor(_CURSOR + file.tail.path, "")
        self._next_list.pop(name, None)

    def _session(self, one: RaySession, now: int, budget: int, out: Records) -> int:
        folder = os.path.join(one.folder, "logs") if one.folder else ""
        files = self._files.setdefault(one.name, {})
        if not folder:
            return budget
        if now >= self._next_list.get(one.name, 0):
            self._next_list[one.name] = now + _LIST_EVERY
            try:
                self._list(one, folder, files, now)
                state = OK
            except OSError as error:
                state = failing(
                    f"cannot read {folder}: {error.strerror}",
                    f"sudo misstep agent, or: sudo chmod -R a+rX {one.folder}",
                )
            if not one.ended:
                self._context.coverage.report(self.source, state, one.session)
        for file in files.values():
            if budget <= 0:
                break
            if now >= file.next or one.ended:
                budget -= self._read(file, one, now, min(budget, _FILE_BYTES), out)
        return budget

    def _list(self, one: RaySession, folder: str, files: dict[str, _File], now: int) -> None:
        for sub in _FOLDERS:
            try:
                found = os.listdir(os.path.join(folder, sub))
            except FileNotFoundError:
                if not sub and not one.ended:
                    raise
                continue
            for name in found:
                path = f"{sub}/{name}" if sub else name
                if path in files:
                    continue
                kind = logfiles.classify(path)
                if kind is not None:
                    files[path] = self._open(path, kind, one, folder, now)

    def _open(self, path: str, kind: LogFile, one: RaySession, folder: str, now: int) -> _File:
        file = _File(path, kind, one.session, folder, now)
        known = (self._known or {}).get(_CURSOR + file.tail.path)
        if known:
            file.resume(known)
        else:
            try:
                if now - os.stat(file.tail.path).st_mtime_ns > _OLD:
                    file.tail.skip_to(0)  # written long before we came: its story is over
                    file.tail.skipped = 0
            except OSError:
                pass
        return file

    def _read(self, file: _File, one: RaySession, now: int, budget: int, out: Records) -> int:
        pending = file.tail.pending()
        ended = bool(one.ended)
        stale = file.tail.unfinished > 0 and now - file.changed > _QUIET
        if not pending or (
            file.tail.unfinished and not stale and not ended and pending <= file.tail.unfinished
        ):
            idle = now - file.changed
            file.next = now + (10 * SECOND if idle > _IDLE else 2 * SECOND if idle > _QUIET else 0)
            return 0
        if pending > _BACKLOG:
            file.tail.skip_to(_KEEP_OF_BACKLOG)
        before = (file.tail.inode, file.tail.offset)
        for line in file.tail.lines(budget, last=ended or stale):
            self._line(file, line, one, now, out)
        if (file.tail.inode, file.tail.offset) != before:
            file.changed = now
            out.cursor(_CURSOR + file.tail.path, file.cursor)
        elif not file.tail.unfinished:
            file.changed = now
        self._count(file, out)
        return min(pending, budget)

    def _count(self, file: _File, out: Records) -> None:
        if file.dropped:
            out.gap("line", file.dropped, f"a Ray log wrote more than {_LINES_PER_SECOND:.0f} lines a second")
        if file.tail.skipped:
            out.gap("log_byte", file.tail.skipped, "a Ray log grew faster than it was read")
        if file.tail.truncated:
            out.gap("line", file.tail.truncated, "a Ray log was truncated or rotated away before it was read")
        file.dropped = file.tail.skipped = file.tail.truncated = 0

    def _line(self, file: _File, line: Line, one: RaySession, now: int, out: Records) -> None:
        text = line.text
        if not text:
            return
        take = file.file.take
        if take == SUBMISSIONS:
            found = submissions.from_export(text)
            if found is not None:
                submissions.add(found[0], out, session=one.session, source=self.source, now=found[1])
            return
        mark = logfiles.marker(text)
        if mark is not None:
            file.mark(*mark)
            return
        level = logfiles.event_level(text) if take == EVENTS else logfiles.level(text)
        if take not in (ALL, EVENTS):
            # Lines without a prefix are the rest of a message, or a crash handler that writes on its own.
            if level is logfiles.UNKNOWN:
                file.following -= 1
                if file.following < 0 and not text.startswith((b"***", b"PC:", b"    @")):
                    return
            elif level.severity < WARNING and not logfiles.is_telling(text):
                file.following = 0
                return
            else:
                file.following = _CONTINUED
        if not file.admit(now):
            file.dropped += 1
            return
        time = level.time if now - 24 * 3600 * SECOND < level.time <= now + 2 * SECOND else now
        out.line(text, file.attributes(line.offset), time=time, severity=level.severity)
        self._recognise(text, file, one, out)

    def _recognise(self, text: bytes, file: _File, one: RaySession, out: Records) -> None:
        """What a worker's line says of collectives: Ray Train's ranks write to the same files as any worker."""
        from misstep.agent.torch import lines  # here: most machines have no Ray

        found = lines.recognise(text)
        if found is not None:
            pid = file.file.attributes.get(names.PID)
            lines.tell(
                found, text, out, session=one.session, path=file.tail.path, source=self.source,
                pid=pid if isinstance(pid, int) else 0,
            )  # fmt: skip
