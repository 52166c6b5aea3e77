"""Reads the files of training jobs on a thread: line by line, each with the rank that it is of, and what it says."""

from __future__ import annotations

import json
import socket

from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.records import ERROR, WARNING, Records
from misstep.agent.tail import Line
from misstep.agent.torch import followed, lines
from misstep.agent.torch.followed import SOURCE, Followed, Holder, Place
from misstep.agent.torch.lines import Found
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.errors import StorageError

_CURSOR = "torch_logs:"
_LIST_EVERY = 5 * SECOND
_SETTLED = 30 * SECOND
"""So long a process is known, and so long lies between looks at where its output goes from then on."""
_KEEP = 15 * SECOND
"""For how long a file is followed after its last writer went."""
_FILES, _PROCESSES = 512, 4096
_ROUND_BYTES, _FILE_BYTES = 2 * 1024 * 1024, 512 * 1024
_INIT_PATIENCE = 30 * SECOND
_INITS = 1024
_ERROR_LIMIT = 256 * 1024
_ERROR, _WARNING = (b"E", b"[E", b"[F", b"F"), (b"W", b"[W")


class Reader:
    """What the thread does each second.

    Attributes:
        holders: who writes; set by the main thread as a whole.
        files: by path.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.holders: list[Holder] = []
        self.files: dict[str, Followed] = {}
        self._known: dict[str, str] | None = None
        self._errors: dict[Holder, list[int]] = {}  # when it was written, and since when its rank is gone
        self._begun: dict[tuple[int, str], tuple[int, Followed, Line, Found]] = {}
        self._listed: list[Holder] = []
        self._job: dict[str, dict[int, Holder]] = {}  # every process of a job, by pid, oldest first
        self._outputs: dict[
            Holder, tuple[int, int, list[Place]]
        ] = {}  # known since, looked at again, where to
        self._list_due = 0

    def sessions(self) -> set[str]:
        """Those of which a file is followed. Any thread may ask."""
        return {one.session for one in list(self.files.values())}

    @property
    def idle(self) -> bool:
        """Whether nothing that could grow is known."""
        return not (self.files or self._errors or self._begun)

    def read(self) -> None:
        """Look for files, read what is new, and hand it over."""
        monotonic = self._context.clock.monotonic()
        out = Records(self._context.clock.now())
        if self.holders != self._listed or monotonic >= self._list_due:
            self._list_due = monotonic + _LIST_EVERY
            self._list(monotonic)
        budget = _ROUND_BYTES
        for path, file in list(self.files.items()):
            over = bool(file.left) and monotonic - file.left > _KEEP
            budget -= self._read(file, budget, over, out)
            if over:
                del self.files[path]
                out.cursor(_CURSOR + path, "")
        self._look_for_errors(out)
        self._look_for_inits(monotonic, out)
        if out:
            try:
                self._context.spool.commit([out])
            except StorageError:
                pass  # the spool counts what it refuses

    # -- files -------------------------------------------------------------------------------------
    def _list(self, monotonic: int) -> None:
        self._listed = self.holders
        writers: dict[str, list[Holder]] = {}
        followed_now = self.sessions()
        self._job = {session: held for session, held in self._job.items() if session in followed_now}
        for holder in self._listed:
            job = self._job.setdefault(holder.session, {})
            if job.get(holder.pid) != holder and len(job) < _PROCESSES:
                job.pop(holder.pid, None)
                job[holder.pid] = holder
            places = list(self._output(holder, monotonic))
            if holder.debug_file:
                place = followed.named(holder.pid, holder.debug_file, socket.gethostname())
                places += [place] if place is not None else []
            for place in places:
                writers.setdefault(place.path, []).append(holder)
                self._follow(place, holder.session)
            if holder.error_file:
                self._errors.setdefault(holder, [0, 0])[1] = 0
        self._outputs = {holder: self._outputs[holder] for holder in self._listed}
        for path, file in self.files.items():
            file.hold(writers.get(path, ()), monotonic)
        for holder, held in list(self._errors.items()):
            if holder not in self._listed:
                held[1] = held[1] or monotonic
                if monotonic - held[1] > _KEEP:
                    del self._errors[holder]

    def _output(self, holder: Holder, monotonic: int) -> list[Place]:
        since, due, places = self._outputs.get(holder, (monotonic, monotonic, []))
        if monotonic >= due:
            places = list(followed.outputs(holder.pid))
            due = monotonic + (_SETTLED if monotonic - since >= _SETTLED else _LIST_EVERY)
            self._outputs[holder] = (since, due, places)
        return places

    def _follow(self, place: Place, session: str) -> None:
        if place.path in self.files or len(self.files) >= _FILES:
            return
        file = Followed(place.path, place.shown, place.owner, session, self._context.clock.now())
        self.files[place.path] = file
        if self._known is None:
            self._known = self._context.spool.cursors(_CURSOR)
        known = self._known.pop(_CURSOR + place.path, "")
        if known:
            file.resume(known)
        else:
            file.begin(place.appended)

    def _read(self, file: Followed, budget: int, over: bool, out: Records) -> int:
        pending = file.tail.pending()
        if not pending or budget <= 0:
            return 0
        before = file.cursor
        for line in file.tail.lines(min(budget, _FILE_BYTES), last=over):
            self._line(file, line, out)
        if file.cursor != before:
            out.cursor(_CURSOR + file.tail.path, file.cursor)
        if file.dropped or file.tail.skipped or file.tail.truncated:
            out.gap("line", file.dropped, "a training job's log had more than 200 lines a second")
            out.gap("log_byte", file.tail.skipped, "a training job's log was long when it was found")
            out.gap("line", file.tail.truncated, "a training job's log was truncated or rotated away unread")
            file.dropped = file.tail.skipped = file.tail.truncated = 0
        return min(pending, _FILE_BYTES)

    def _line(self, file: Followed, line: Line, out: Records) -> None:
        text = line.text.rpartition(b"\r")[2]  # of a progress bar what stands there last
        if not text.strip() or not file.admit(out.now):
            return
        found = lines.recognise(text)
        if found is None:
            rank, local = lines.who(text[:64].decode("utf-8", "replace"))
            holder = self._whose(file, rank, local, 0)
        else:
            holder = self._whose(file, found.rank, found.local, found.pid)
        severity = found.severity if found is not None else _severity(text)
        out.line(text, file.attributes(holder, line.offset), severity=severity)
        if found is not None:
            self._tell(found, text, file, holder, out)
            self._remember_init(file, line, found)

    def _whose(self, file: Followed, rank: int, local: int, pid: int) -> Holder | None:
        job = self._job.get(file.session, {})
        return file.whose(rank, local, pid, reversed(job.values()))

    # -- initialisations that do not end -------------------------------------------------------------
    def _remember_init(self, file: Followed, line: Line, found: Found) -> None:
        key = (found.pid, str(found.attributes.get(names.COMMUNICATOR, "")))
        if found.kind == "init_start" and len(self._begun) < _INITS:
            self._begun[key] = (self._context.clock.monotonic(), file, line, found)
        elif found.kind == "init_complete":
            self._begun.pop(key, None)

    def _look_for_inits(self, monotonic: int, out: Records) -> None:
        for key, (since, file, line, found) in list(self._begun.items()):
            if monotonic - since < _INIT_PATIENCE:
                continue
            del self._begun[key]
            if file.tail.path in self.files:
                holder = self._whose(file, found.rank, found.local, found.pid)
                self._tell(found._replace(kind="init_open", severity=WARNING), line.text, file, holder, out)

    # -- torchrun's error files ----------------------------------------------------------------------
    def _look_for_errors(self, out: Records) -> None:
        for holder, held in self._errors.items():
            try:
                written, text = followed.small(holder.error_file, holder.user, _ERROR_LIMIT)
            except OSError:
                continue  # nothing has failed
            if text and written != held[0]:
                held[0] = written
                tell_error(text, holder, out)

    def _tell(self, found: Found, text: bytes, file: Followed, holder: Holder | None, out: Records) -> None:
        rank, pid = (holder.rank, holder.pid) if holder is not None else (-1, 0)
        lines.tell(found, text, out, session=file.session, path=file.shown, source=SOURCE, rank=rank, pid=pid)


def tell_error(text: bytes, holder: Holder, out: Records) -> None:
    """What ``@record`` wrote of the exception that ended a rank (torch.distributed.elastic, ErrorHandler)."""
    try:
        message = json.loads(text)["message"]
        held = message if isinstance(message, dict) else {"message": message}
        kind, _, words = str(held["message"]).partition(": ")
        extra = held.get("extraInfo")
        stack = str(extra.get("py_callstack", "")) if isinstance(extra, dict) else ""
    except (ValueError, KeyError, TypeError):
        return  # half written; its next change is looked at again
    told: dict[str, Value] = {
        names.EXCEPTION_TYPE: kind[:200], names.EXCEPTION_MESSAGE: words[:2000], names.PID: holder.pid,
        names.RANK: holder.rank, names.FILE_PATH: holder.error_file, names.SOURCE: SOURCE,
    }  # fmt: skip
    out.event(
        "torch.log", entity=holder.entity, session=holder.session, state="error_file", severity=ERROR, body=stack,
        attributes=told,
    )  # fmt: skip
    if stack and not holder.hooked:
        out.event(
            "process.exception", entity=holder.process, session=holder.session, severity=ERROR, body=stack,
            attributes=told,
        )  # fmt: skip


def _severity(text: bytes) -> int:
    """Of a line that carries a level as PyTorch and torchrun write it: ``E1120 09:55:34…`` or ``[E1120 …``."""
    head = text[:64]
    head = head.rpartition(b"]:")[2] if head.startswith(b"[") and b"]:" in head else head
    if len(head) > 5 and head.lstrip(b"[")[1:4].isdigit():
        return ERROR if head.startswith(_ERROR) else WARNING if head.startswith(_WARNING) else 0
    return 0
