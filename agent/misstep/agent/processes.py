"""The workload's processes: found in the process table, watched each second, missed when they go."""

from __future__ import annotations

import os
import signal

from misstep.agent import owners
from misstep.agent.context import Context
from misstep.agent.exits import ExitProbe, Exits
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, failing, unsupported
from misstep.agent.process_table import ProcessTable
from misstep.agent.procfs import TICKS, boot_time, parse_stat, sample
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.series import Series, declared
from misstep.agent.workload import Exit, Process
from misstep.core import names
from misstep.core.clock import SECOND

WATCHED_LIMIT = 1024
"""Processes that are sampled each second; each costs a descriptor and 10 µs."""
_PATIENCE = 3
_TELLING = frozenset((b"D", b"Z", b"T", b"t"))
"""States worth a point: running and sleeping are what processes do, and as series they would come and go each second."""


class _Watched:
    """A process with its open stat file and its series."""

    __slots__ = ("cpu", "fd", "gone", "last", "line", "memory", "name", "process", "session", "states")

    def __init__(self, process: Process, fd: int, name: str) -> None:
        self.process, self.fd, self.name = process, fd, name.encode()
        self.session: str | None = None
        self.gone = 0
        self.line = b""
        self.last = (0, 0.0)

    def label(self, entity: str, started: int) -> None:
        """Make the series, and again when the process's session becomes known."""
        process = self.process
        self.session = process.session
        held: dict[str, Value] = {
            names.ENTITY: entity,
            names.PID: process.pid,
            names.PROCESS_START: process.start,
        }
        if process.session:
            held[names.SESSION] = process.session
        self.memory = declared("process.memory.usage", held)
        self.cpu = declared("process.cpu.time", held, started)
        self.states: dict[bytes, Series] = {
            letter: declared("process.state", {**held, names.PROCESS_STATE: letter.decode()})
            for letter in _TELLING
        }


class ProcessProbe:
    """Samples known processes each second, looks for new ones when something was forked, and at all every few seconds.

    Args:
        exits: how processes ended.
        news: the probe that drains them, called before this one.
        root: where procfs is mounted.
    """

    source = "processes"
    follows_events = False

    def __init__(self, context: Context, exits: Exits, news: ExitProbe, root: str = "/proc") -> None:
        self.interval = context.settings.agent.interval
        self._context, self._workload = context, context.workload
        self._exits, self._news, self._root = exits, news, root
        self._boot = boot_time()
        self._table = ProcessTable(context.workload, root, ray_folder=context.settings.agent.ray_folder)
        self._walk_every = round(context.settings.agent.process_table_interval * SECOND)
        self._walk_due = 0
        self._watched: dict[int, _Watched] = {}
        self._beyond = 0
        _raise_descriptor_limit()
        context.workload.exit_of = exits.lookup

    def supported(self) -> SourceState:
        """Whether there is a process table here."""
        if os.path.isdir(f"{self._root}/self"):
            return OK
        return unsupported(f"{self._root} is not mounted", f"mount -t proc proc {self._root}")

    def check(self, now: int, out: Records) -> SourceState | None:
        """Exits first, then newcomers, then a sample of everyone."""
        for ended in self._news.news:
            watched = self._watched.get(ended.pid)
            if watched is not None and not self._lives_on(watched):
                self._end(watched, ended, out)
        monotonic = self._context.clock.monotonic()
        if monotonic >= self._walk_due:
            self._walk_due = monotonic + self._walk_every
            found = self._table.walk(self._watched)
        else:
            found = self._table.newcomers()
        for process, name in found:
            self._begin(process, name, out)
        for pid, (session, role) in self._workload.take_asked().items():
            self._admit(pid, session, role, out)
        for watched in list(self._watched.values()):
            self._sample(watched, out)
        return self._state()

    def close(self) -> None:
        """Give back the descriptors."""
        for watched in self._watched.values():
            os.close(watched.fd)
        self._watched.clear()

    # -- coming and going --------------------------------------------------------------------------
    def _begin(self, process: Process, name: str, out: Records) -> None:
        old = self._watched.get(process.pid)
        if old is not None:
            self._end(old, None, out)  # its pid was given to another
        if len(self._watched) >= WATCHED_LIMIT:
            self._beyond += 1
            self._workload.remove(process)
            return
        try:
            fd = os.open(f"{self._root}/{process.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._workload.remove(process)
            return  # gone between the look and the open
        self._exits.hold(process.pid)
        self._workload.add(process)
        self._watched[process.pid] = _Watched(process, fd, name)
        parent = self._workload.find(process.parent)
        held: dict[str, Value] = {
            **self._identity(process),
            names.PARENT_PID: process.parent,
            names.PARENT_ENTITY: self._workload.entity(parent) if parent is not None else "",
            names.COMMAND: process.command,
            names.CGROUP: process.cgroup,
            **owners.entities(process.cgroup),
            names.RAY_SESSION_NAME: process.ray_session,
            names.RANK: process.environment.get("RANK", ""),
            names.WORLD_SIZE: process.environment.get("WORLD_SIZE", ""),
            names.PROCESS_UNREAD: ",".join(process.unread),
        }
        out.event(
            "process.start",
            entity=self._workload.entity(process),
            session=process.session,
            time=self._started(process),
            attributes=held,
        )

    def _admit(self, pid: int, session: str, role: str, out: Records) -> None:
        """Somebody asked for a pid: watch it, or if it is dead say how it ended."""
        watched = self._watched.get(pid)
        if watched is not None:
            process = watched.process
            process.session = process.session or session
            if process.role != role and role != "registered":
                process.role = role
            return
        found = self._table.inspect(pid, role, session)
        if found is not None:
            self._begin(*found, out)
            return
        ended = self._exits.lookup(pid)
        if ended is not None and self._workload.find(pid) is None:
            # It was never looked at, so its start is not known; 0 stands for that.
            process = Process(pid, 0)
            process.role, process.session = role, session
            self._workload.remove(process)
            self._tell_exit(process, ended, out)

    def _end(self, watched: _Watched, ended: Exit | None, out: Records) -> None:
        process = watched.process
        self._exits.release(process.pid)
        os.close(watched.fd)
        del self._watched[process.pid]
        self._table.forget(process.pid)
        self._workload.remove(process)
        self._tell_exit(process, ended, out)

    def _tell_exit(self, process: Process, ended: Exit | None, out: Records) -> None:
        held = self._identity(process)
        state, reason, severity = "unknown", "", INFO
        if ended is None:
            reason = self._exits.state.reason or "the kernel did not tell how it ended"
        elif ended.signal:
            state, severity = "killed", WARNING
            held[names.EXIT_SIGNAL] = _signal_name(ended.signal)
            reason = "core dumped" if ended.core else ""
        else:
            state, severity = "exited", WARNING if ended.code else INFO
            held[names.EXIT_CODE] = ended.code or 0
        out.event(
            "process.exit",
            entity=self._workload.entity(process),
            session=process.session,
            state=state,
            body=reason,
            time=ended.time if ended is not None else out.now,
            severity=severity,
            attributes=held,
        )

    def _identity(self, process: Process) -> dict[str, Value]:
        job = process.environment.get("RAY_JOB_ID", "")
        return {
            names.PID: process.pid,
            names.PROCESS_START: process.start,
            names.PROCESS_TITLE: process.title,
            names.PROCESS_ROLE: process.role,
            names.RAY_JOB: "" if job == "ffffffff" else job,
            names.RAY_NODE: process.environment.get("RAY_NODE_ID", ""),
        }

    def _started(self, process: Process) -> int:
        return self._boot + process.start * SECOND // TICKS

    def _lives_on(self, watched: _Watched) -> bool:
        """Whether only the first thread of a process has ended."""
        try:
            held = parse_stat(os.pread(watched.fd, 1024, 0))
        except (OSError, ValueError):
            return False
        return held.threads > 1

    # -- sampling ----------------------------------------------------------------------------------
    def _sample(self, watched: _Watched, out: Records) -> None:
        try:
            line = os.pread(watched.fd, 1024, 0)
            if line == watched.line and watched.session == watched.process.session:
                out.point(watched.memory, watched.last[0])
                out.point(watched.cpu, watched.last[1])
                return
            name, state, threads, cpu, memory = sample(line)
        except (OSError, ValueError):
            self._missing(watched, out)
            return
        if state == b"Z" and threads <= 1:
            ended = self._exits.lookup(watched.process.pid)
            if ended is not None:
                self._end(watched, ended, out)
                return
        process = watched.process
        if name != watched.name:
            watched.name = name
            process.title = self._table.title(process.pid) or process.title
        if watched.session != process.session:
            watched.label(self._workload.entity(process), self._started(process))
        watched.last = (memory, cpu / TICKS)
        out.point(watched.memory, memory)
        out.point(watched.cpu, watched.last[1])
        if state in _TELLING:
            watched.line = b""
            out.point(watched.states[state], 1.0)
        else:
            watched.line = line  # a process that slept since then needs no second reading of its numbers

    def _missing(self, watched: _Watched, out: Records) -> None:
        if self._exits.listening:
            self._exits.drain()  # it may have ended since the ends of others were read
        ended = self._exits.lookup(watched.process.pid)
        watched.gone += 1
        if ended is not None or self._exits.listening or watched.gone >= _PATIENCE:
            self._end(watched, ended, out)

    def _state(self) -> SourceState:
        if self._beyond:
            return failing(f"{self._beyond} workload processes beyond the {WATCHED_LIMIT} that are watched")
        hidden = sum(1 for watched in self._watched.values() if watched.process.unread)
        if hidden:
            return SourceState(
                "ok",
                f"environment of {hidden} workload processes belongs to other users",
                "sudo misstep agent",
            )
        return OK


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # real-time signals have no names of their own


def _raise_descriptor_limit() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WATCHED_LIMIT * 2 + 256
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))
