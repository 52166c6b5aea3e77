"""The thread that asks ranks how they stand. It sleeps between questions and waits for nobody's answer.

Each second every rank is asked for its status, 300 bytes. The Flight Recorder is read when a job's groups change, when
a rank stands still or is gone, and from time to time besides (see `vigil`); stacks are taken with a reading of a job
that stands still, and of ranks that come late.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from misstep.agent import procfs
from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import SourceState
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.torch import door, progress, pyspy, recorder
from misstep.agent.torch.door import Door
from misstep.agent.torch.rank import Rank
from misstep.agent.torch.vigil import Vigil
from misstep.agent.watched_thread import WatchedThread
from misstep.core import names
from misstep.core.errors import StorageError

INTERVAL = 1.0
_SILENT = 0.9
_OWN_STACKS = 0.5
_TRACE, _TRACE_MOVING = 1.0, 3.0
_ROWS = 24


class Watcher:
    """Asks the ranks that it is given, until it is closed.

    Args:
        greeted: called from the thread with a rank whose hook said who it is, and again when its groups have changed.
        lost: called from the thread with a rank that closed its socket.
    """

    def __init__(
        self, context: Context, greeted: Callable[[Rank], None], lost: Callable[[Rank], None]
    ) -> None:
        self._context = context
        self._greeted, self._lost = greeted, lost
        self._lock = threading.Lock()
        self._fresh: list[Rank] = []
        self._wanted: dict[str, str] = {}
        self._blind: list[list[Rank]] = []
        self._doors: dict[int, tuple[Door, Rank]] = {}
        self._vigils: dict[str, Vigil] = {}
        self._pyspy = pyspy.program()
        self._read, self._write = os.pipe()
        self._thread = WatchedThread("torch", self._run, context.clock)
        self.refused = ""
        """Why py-spy could not read the last stacks; empty while it can."""

    def watch(self) -> SourceState:
        """Begin the thread, or begin it again when it died; `failing` while it is down."""
        return self._thread.watch()

    def take(self, rank: Rank) -> None:
        """Watch one more rank, whose socket is known."""
        with self._lock:
            self._fresh.append(rank)
        os.write(self._write, b"x")

    def glimpse(self, ranks: list[Rank]) -> None:
        """Take the stacks of ranks whose hook has not spoken."""
        with self._lock:
            self._blind.append(ranks)
        os.write(self._write, b"x")

    def want_stacks(self, session: str) -> None:
        """Read a job now, stacks included."""
        with self._lock:
            self._wanted[session] = "asked"
        os.write(self._write, b"x")

    def close(self) -> None:
        """End the thread."""
        self._thread.stopping.set()
        os.write(self._write, b"x")
        self._thread.close(5)
        for held, _ in self._doors.values():
            held.close()
        os.close(self._read)
        os.close(self._write)

    # -- the thread --------------------------------------------------------------------------------
    def _run(self) -> None:
        poll = select.poll()
        for number in (self._read, *self._doors):  # doors that were open when the thread died are open still
            poll.register(number, select.POLLIN)
        tick = time.monotonic()
        while not self._thread.stopping.is_set():
            tick = self._round(poll, tick)

    def _round(self, poll: select.poll, tick: float) -> float:
        """Hear who answers, and at a tick ask anew; returns the next tick."""
        for number, _ in poll.poll(max(0.0, tick - time.monotonic()) * 1000):
            if number == self._read:
                os.read(self._read, 64)
            elif number in self._doors:
                self._hear(*self._doors[number], poll)
        self._enter(poll)
        self._answer_wishes()
        self._catch()
        now = time.monotonic()
        if now < tick:
            return tick
        self._ask(now, poll)
        self._look(now)
        return max(tick + INTERVAL, now + INTERVAL / 2)

    def _enter(self, poll: select.poll) -> None:
        with self._lock:
            fresh, self._fresh = self._fresh, []
        for rank in fresh:
            try:
                held = Door(rank.path)
                held.ask(door.HELLO, time.monotonic())
            except OSError:
                self._lost(rank)
                continue
            self._doors[held.fileno()] = (held, rank)
            poll.register(held.fileno(), select.POLLIN)

    def _ask(self, now: float, poll: select.poll) -> None:
        for held, rank in list(self._doors.values()):
            if held.asked:
                if not rank.silent and now - held.since > _SILENT:
                    rank.silent = held.since
                continue
            try:
                held.ask(door.STATUS if rank.hello else door.HELLO, now)
            except OSError:
                self._drop(held, rank, poll)

    def _hear(self, held: Door, rank: Rank, poll: select.poll) -> None:
        try:
            answer = held.receive()
            if answer is None:
                return
            question, body = answer
            if question == door.HELLO:
                self._greet(rank, held, body)
            elif question == door.STATUS:
                body, rank.workload = progress.part(body)
                positions, rank.recording = recorder.status(body)
                if rank.see(body, positions, time.monotonic()) and not set(positions) <= set(rank.names):
                    self._learn(rank, held)
        except OSError:
            self._drop(held, rank, poll)
        except (ValueError, KeyError, TypeError):
            rank.traced = rank.traced or "unreadable"

    def _greet(self, rank: Rank, held: Door, body: bytes) -> None:
        rank.hello = json.loads(body)
        rank.number, rank.world = int(rank.hello["rank"]), int(rank.hello["world_size"])
        rank.pid = held.pid
        self._greeted(rank)

    def _learn(self, rank: Rank, held: Door) -> None:
        """A group that was not there before: learn its name, and who is in it."""
        self._trace(rank, self._rings(rank))
        if not held.asked:
            held.ask(door.HELLO, time.monotonic())

    def _drop(self, held: Door, rank: Rank, poll: select.poll) -> None:
        poll.unregister(held.fileno())
        del self._doors[held.fileno()]
        held.close()
        self._lost(rank)
        if rank.session:
            out = Records(self._context.clock.now())
            self._tell_position(rank, "gone", out.now, out)
            self._keep(out)
            # What the others wait in is gone with them in a moment: their launcher ends them.
            self._read_job(rank.session, "stopped", stacks=False)

    def _look(self, now: float) -> None:
        jobs: dict[str, list[Rank]] = {}
        for _, rank in self._doors.values():
            if rank.session:
                jobs.setdefault(rank.session, []).append(rank)
        self._vigils = {session: self._vigils.get(session) or Vigil(now) for session in jobs}
        for session, ranks in jobs.items():
            vigil = self._vigils[session]
            vigil.saw(frozenset(rank.number for rank in ranks), _waiting(ranks), now)
            why = vigil.due(
                stands=any(rank.stands(now) for rank in ranks),
                steps=sum(rank.steps for rank in ranks),
                now=now,
            )
            if why:
                self._read_job(session, why, stacks=why == "stopped")

    def _catch(self) -> None:
        """Take the stacks of ranks that come late while the others wait for them: as soon as all have answered."""
        for session, vigil in self._vigils.items():
            held = (
                [(one, rank) for one, rank in self._doors.values() if rank.session == session]
                if vigil.late
                else []
            )
            if not held or any(one.asked for one, _ in held):
                continue
            ranks = [rank for _, rank in held]
            if vigil.catches(_waiting(ranks), time.monotonic()):
                out = Records(self._context.clock.now())
                self._tell_stacks([rank for rank in ranks if rank.number in vigil.late], out.now, out)
                self._keep(out)

    def _answer_wishes(self) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, {}
            blind, self._blind = self._blind, []
        for ranks in blind:
            out = Records(self._context.clock.now())
            self._tell_stacks(ranks, out.now, out)
            self._keep(out)
        for session in wanted:
            self._read_job(session, "", stacks=True)

    # -- readings ----------------------------------------------------------------------------------
    def _read_job(self, session: str, why: str, *, stacks: bool) -> None:
        ranks = sorted(
            (r for _, r in self._doors.values() if r.session == session), key=lambda rank: rank.number
        )
        if not ranks:
            return
        at = self._context.clock.now()
        out = Records(at)
        now = time.monotonic()
        spent: list[float] = []
        for rank in ranks:
            state = why or ("stopped" if rank.stands(now) else "moving")
            begun = time.monotonic()
            rings = (
                []
                if _is_stopped(rank.pid)
                else self._rings(rank, _TRACE_MOVING if why == "moving" else _TRACE)
            )
            spent.append(time.monotonic() - begun)
            found = self._trace(rank, rings)
            if found is not None and state == "stopped":
                _tell_collectives(rank, found, out)
            out.now = self._context.clock.now()
            told = rank.told_calls.fresh(rings)
            self._tell_position(rank, state if rings else "silent", at, out, told)
        if why == "moving" and session in self._vigils:
            self._vigils[session].took(min(spent))
        if stacks:
            self._tell_stacks(ranks, at, out, calls=True)
        self._keep(out)

    def _rings(self, rank: Rank, timeout: float = _TRACE) -> list[bytes]:
        """All that its Flight Recorders hold; nothing where the rank does not answer."""
        try:
            return [door.trace(rank.server, handler, timeout) for handler in rank.handlers]
        except OSError:
            return []

    def _trace(self, rank: Rank, rings: list[bytes]) -> recorder.Trace | None:
        try:
            found = recorder.read(rings) if rings else None
        except ValueError:
            return None
        if found is not None:
            rank.traced = ", ".join(found.unknown)
            rank.names |= found.names
            rank.mixed |= found.mixed
            rank.positions |= {id: found.positions[id] for id in found.mixed}
        return found

    def _tell_position(
        self, rank: Rank, state: str, at: int, out: Records, calls: Mapping[str, object] | None = None
    ) -> None:
        held = {group: list(position) for group, position in sorted(rank.by_group().items())}
        body: dict[str, object] = {"groups": held, **(calls or {})}
        if rank.silent:
            body["silent_s"] = round(time.monotonic() - rank.silent, 1)
        attributes: dict[str, Value] = {
            names.RANK: rank.number, names.PID: rank.pid, names.READING: at, names.PROCESS_STATE: _state(rank.pid),
            names.SWITCHES: _switches(rank.pid), **rank.workload.attributes(),
        }  # fmt: skip
        out.event(
            "torch.reading", entity=rank.entity, session=rank.session, state=state,
            severity=INFO if state == "moving" else WARNING, body=json.dumps(body, separators=(",", ":")),
            attributes=attributes,
        )  # fmt: skip

    def _tell_stacks(self, ranks: list[Rank], at: int, out: Records, *, calls: bool = False) -> None:
        """Where ranks stand; with `calls` their hook says besides which method a script's own line is calling."""
        found = pyspy.dump([rank.pid for rank in ranks], self._pyspy) if self._pyspy else {}
        self.refused = ""
        for rank in ranks:
            held = found.get(rank.pid, "py-spy is not installed")
            how = "py-spy"
            if isinstance(held, str):
                self.refused, how = held, "hook"
                held = _own_stacks(rank)
            elif calls and rank.path and not rank.silent:
                _add_call(rank, held)
            if held:
                out.event(
                    "torch.stack", entity=rank.entity, session=rank.session,
                    body=json.dumps(held, separators=(",", ":")),
                    attributes={
                        names.RANK: rank.number, names.PID: rank.pid, names.READING: at, names.SOURCE: how,
                        **rank.workload.attributes(),
                    },
                )  # fmt: skip

    def _keep(self, out: Records) -> None:
        try:
            self._context.spool.commit([out])
        except StorageError:
            pass  # the spool counts what it refuses, and tells it when it can again


def _waiting(ranks: Iterable[Rank]) -> frozenset[int]:
    return frozenset(rank.number for rank in ranks if rank.waits)


def _tell_collectives(rank: Rank, found: recorder.Trace, out: Records) -> None:
    # The recorder is read later than the status, and knows better.
    rank.positions = found.positions or rank.positions
    for one in rank.fresh(found.collectives, _ROWS):
        _tell_collective(rank, one, out)


def _tell_collective(rank: Rank, one: recorder.Collective, out: Records) -> None:
    out.event(
        "torch.collective", entity=rank.entity, session=rank.session, state=one.state, time=one.created,
        attributes={
            names.RANK: rank.number, names.PID: rank.pid, names.GROUP: one.group, names.GROUP_LABEL: one.label, names.SEQUENCE: one.sequence,
            names.OPERATION: one.operation, names.SIZES: one.sizes, names.DTYPES: one.dtypes,
        },
    )  # fmt: skip


def _add_call(rank: Rank, held: pyspy.Stack) -> None:
    """py-spy does not see what a line calls in C, such as the `wait` of a request; the rank's own thread does.

    Lines of torch itself are known by their function; and where a thread holds the interpreter's lock, the rank's own
    may have to wait for it.
    """
    main = _main(held)
    if (
        any(one.get("gil") for one in held)
        or main is None
        or not main["frames"]
        or "/torch/" in main["frames"][-1][1]
    ):
        return
    own = _main(_own_stacks(rank))
    if own is not None and own["frames"][-1:] == main["frames"][-1:]:
        main["call"] = own.get("call", "")


def _main(held: pyspy.Stack) -> dict[str, Any] | None:
    return next((one for one in held if one.get("thread") == "MainThread"), None)


def _own_stacks(rank: Rank) -> pyspy.Stack:
    """Stacks by the rank's own thread, where tracing is refused; it needs the interpreter's lock, and may get no answer."""
    try:
        held = Door(rank.path)
    except OSError:
        return []
    try:
        held.ask(door.STACKS, time.monotonic())
        deadline = time.monotonic() + _OWN_STACKS
        while (left := deadline - time.monotonic()) > 0:
            if select.select([held], [], [], left)[0] and (answer := held.receive()) is not None:
                return list(json.loads(answer[1]))
    except (OSError, ValueError):
        pass  # gone, or not to be heard
    finally:
        held.close()
    return []


def _state(pid: int) -> str:
    try:
        return procfs.parse_stat(procfs.read(f"/proc/{pid}/stat", 1024)).state
    except (OSError, ValueError):
        return ""


def _switches(pid: int) -> int:
    """How often its main thread has gone to sleep by itself; -1 where that cannot be read."""
    try:
        told = procfs.read(f"/proc/{pid}/status").rpartition(b"\nvoluntary_ctxt_switches:")[2]
        return int(told.split(None, 1)[0])
    except (OSError, ValueError, IndexError):
        return -1


def _is_stopped(pid: int) -> bool:
    return _state(pid) in ("T", "t", "Z", "")
