"""The ranks of a training job as a tick sees them: where each stands, what it called, how it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

from misstep.core import names, stacks
from misstep.core.identity import Session
from misstep.diagnosis import pace
from misstep.diagnosis.detectors.processes import ending
from misstep.diagnosis.pace import Pace
from misstep.diagnosis.traceback import root
from misstep.diagnosis.waits import Call, Standing
from misstep.diagnosis.window import Window
from misstep.store.rows import LogRow

_STOPPED = ("T", "t")
_EARLY = 60_000_000_000
_RECENT = 180_000_000_000
"""So far back reach the calls that a tick looks at; a job that gets on is read each minute at least."""
_READINGS, _NEWEST = 2, 50
"""Of each rank so many of its newest readings are compared call by call, and so many calls of each are kept else."""
_PACED = 1000
"""Calls of a rank by which its pace is judged."""

_JOINS = ("join", "_wait_for_tstate_lock")
_SPAWNED = re.compile(r"-- Process (?P<place>\d+) terminated with the following error:")
"""torch/multiprocessing/spawn.py, `ProcessContext.join`."""


class Snapshot(NamedTuple):
    """One reading of a rank's collectives: by group, how many it had begun and how many were over.

    `sleeps` is how often its main thread had gone to sleep by then; -1 if nobody knows.
    """

    ts: int
    state: str
    frozen: bool
    sleeps: int
    begun: Mapping[str, int]
    done: Mapping[str, int]
    row: LogRow


class Dump(NamedTuple):
    """Where the thread of a rank that trains stood; `together` is the same for all that were taken at one time.

    `call` is the method that its innermost line was calling, where that is not Python's and is known.
    """

    ts: int
    together: str
    frames: list[stacks.Frame]
    active: bool
    call: str
    row: LogRow


@dataclass(slots=True)
class Member:
    """One rank, in its newest life."""

    number: int
    entity: str
    pid: int
    process: str
    host: str
    row: LogRow
    snapshots: list[Snapshot] = field(default_factory=list)
    dumps: list[Dump] = field(default_factory=list)
    calls: dict[tuple[str, int], tuple[Call, LogRow]] = field(default_factory=dict)
    end: LogRow | None = None
    raised: LogRow | None = None
    told: list[LogRow] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``rank 3``."""
        return f"rank {self.number}"

    @property
    def where(self) -> str:
        """``pid 4711 on node-2``."""
        return f"pid {self.pid} on {self.host}" if self.host else f"pid {self.pid}"

    @property
    def failed(self) -> bool:
        """Whether it ended, and not well."""
        signal, code = ending(self.end) if self.end is not None else ("", 0)
        return bool(signal) or code != 0

    def begun(self, group: str) -> int:
        """The last call of a group that it is known to have begun; 0 if none."""
        return max((one.begun.get(group, 0) for one in self.snapshots), default=0)

    def at(self, until: int) -> Snapshot | None:
        """The newest reading up to a moment that it answered to, or one that it did not and by which it has moved on.

        Without an answer its numbers are those of its status, which torch may have told less well; else it says only
        that it is stopped.
        """
        held = [one for one in self.snapshots if one.ts <= until and one.state != "gone"]
        if not held:
            return None
        answered = next((one for one in reversed(held) if one.state != "silent"), held[-1])
        if any(held[-1].begun.get(group, 0) > number for group, number in answered.begun.items()):
            return held[-1]
        frozen = held[-1].frozen
        return answered._replace(frozen=frozen, ts=held[-1].ts if frozen else answered.ts)

    def stacks(self, since: int, until: int) -> list[Dump]:
        """Its stacks between two moments, as far as it answered a reading of the same time or a later one.

        Where it did not, its calls may have gone on from those that are known, and its stacks are of another one.
        """
        answered = [one for one in self.snapshots if one.ts <= until and (one.frozen or one.state not in ("silent", "gone"))]  # fmt: skip
        readings = {one.row.attributes.get(names.READING, "") for one in answered}
        last = max((one.ts for one in answered), default=until)
        return [one for one in self.dumps if since <= one.ts <= until and (one.ts <= last or one.together in readings)]  # fmt: skip

    def asleep(self, since: int, until: int) -> int:
        """For how long before its last reading its main thread is known not to have woken, nanoseconds."""
        told = [one for one in self.snapshots if since <= one.ts <= until and one.sleeps >= 0]
        same = list(takewhile(lambda one: one.sleeps == told[-1].sleeps, reversed(told)))
        return same[0].ts - same[-1].ts if same else 0

    def standing(self, until: int, state: str = "") -> Standing:
        """As `waits` takes it."""
        held = self.at(until)
        calls = {key: call for key, (call, _) in self.calls.items() if call.created <= until}
        if held is None:
            return Standing(0, {}, {}, calls, state or "alive")
        seen = [one for one in self.snapshots if one.ts <= until]
        own = "gone" if seen[-1].state == "gone" else "frozen" if held.frozen else "alive"
        return Standing(held.ts, held.begun, held.done, calls, state or own)


class Team:
    """All ranks of a job.

    Attributes:
        groups: ranks of each process group.
        labels: what the code that made a group calls it.
        launcher: pid of what started them, 0 if unknown.
        past: ranks of earlier lives, the oldest life first: torchrun starts all anew when one fails.
    """

    def __init__(self, window: Window) -> None:
        self.members: dict[int, Member] = {}
        self.groups: dict[str, frozenset[int]] = {}
        self.labels: dict[str, str] = {}
        self.launcher = 0
        self.past: list[dict[int, Member]] = []
        self._since = window.at - _RECENT
        for row in window.rows("torch.rank"):
            self._meet(row)
        if self.members:
            self._read(window)

    def group(self, name: str) -> str:
        """How a person calls a group."""
        label = self.labels.get(name, "")
        return label if label and label != "undefined" else f"group {name}"

    @cached_property
    def pace(self) -> Pace:
        """Who comes late while the job gets on, by the newest calls."""
        told = tuple(
            (number, tuple(row.body for row in member.told[::-1] if row.ts >= self._since))
            for number, member in sorted(self.members.items())
        )
        return _pace(told, tuple(sorted(self.groups.items())))

    def dumps(self, since: int, until: int) -> dict[int, Dump]:
        """Of each machine the newest stacks between two moments that were taken of most of its ranks together.

        A rank that is late is also looked at alone.
        """
        machines: dict[str, dict[str, dict[int, Dump]]] = {}
        for number, member in self.members.items():
            for one in member.dumps:
                if since <= one.ts <= until:
                    machines.setdefault(member.host, {}).setdefault(one.together, {})[number] = one
        found: dict[int, Dump] = {}
        for newest in machines.values():
            found |= newest[max(newest, key=lambda reading: (len(newest[reading]), reading))]
        return dict(sorted(found.items()))

    def _meet(self, row: LogRow) -> None:
        number, pid = _number(row, names.RANK), _number(row, names.PID)
        known = self.members.get(number)
        if known is not None and known.pid != pid:
            if not self.past or number in self.past[-1]:
                self.past.append({})
            self.past[-1][number] = known
        if known is None or known.pid != pid:
            self.members[number] = Member(
                number, row.entity, pid, row.attributes.get(names.PROCESS_ENTITY, ""), row.resource.get(names.HOST_NAME, ""), row,
            )  # fmt: skip
        for name, held in _object(row.body).items():
            if isinstance(held, dict) and isinstance(held.get("ranks"), list):
                self.groups[name] = frozenset(one for one in held["ranks"] if isinstance(one, int))
                self.labels[name] = str(held.get("desc") or "")

    def _read(self, window: Window) -> None:
        since = window.since
        for row in window.rows("torch.reading", since=since):
            if (member := self._of(row)) is not None:
                member.snapshots.append(_snapshot(row))
                if '"calls":' in row.body:
                    member.told.append(row)
        self._take_calls()
        for row in sorted(window.rows("torch.collective", since=since), key=lambda row: (row.seq, row.row)):
            if (member := self._of(row)) is not None:
                call = Call(
                    row.attributes.get(names.GROUP, ""), _number(row, names.SEQUENCE), row.attributes.get(names.OPERATION, ""),
                    row.attributes.get(names.SIZES, ""), row.attributes.get(names.DTYPES, ""), row.ts,
                )  # fmt: skip
                member.calls[call.group, call.sequence] = (call, row)
                if row.attributes.get(names.GROUP_LABEL):
                    self.labels[call.group] = row.attributes[names.GROUP_LABEL]
        for row in window.rows("torch.stack", since=since):
            if (member := self._of(row)) is not None and (dump := _dump(row)) is not None:
                member.dumps.append(dump)
        everyone = [member for life in (*self.past, self.members) for member in life.values()]
        # The start of a process, the last part of its name, is not always known to whoever tells of it.
        processes = {_place(member.process): member for member in everyone}
        for row in window.rows("process.exit"):
            if (
                held := processes.get(_place(row.entity))
            ) is not None and row.ts >= held.row.ts - 1_000_000_000:
                held.end = row
        for row in window.rows("process.exception"):
            if (held := processes.get(_place(row.entity))) is not None and not row.attributes.get(
                names.THREAD
            ):
                held.raised = row
        for member in everyone:
            if member.failed and member.end is not None and member.raised is None:
                member.raised = _raised_early(window, member)
        if Session.parse(window.session).kind == "torch":
            starts = window.rows("session.start")
            self.launcher = _number(starts[-1], names.PID) if starts else 0
            self._take_spawned(window)

    def _take_calls(self) -> None:
        """The calls that came with readings: the newest, and all of them where ranks differ."""
        told = {
            number: [row for row in member.told[-_READINGS:] if row.ts >= self._since]
            for number, member in sorted(self.members.items())
        }
        every = _differ(tuple(tuple(row.body for row in rows) for rows in told.values()))
        for number, rows in told.items():
            for row in rows:
                calls = _calls(row.body)[1]
                for call in calls if every else calls[-_NEWEST:]:
                    self.members[number].calls[call.group, call.sequence] = (call, row)

    def _take_spawned(self, window: Window) -> None:
        """The exception of a rank of torch.multiprocessing's `spawn`, which only the process that spawned it tells."""
        ranks = [member for _, member in sorted(self.members.items())]
        for row in window.rows("process.exception", attributes={names.PID: str(self.launcher)}):
            told = _SPAWNED.match(row.attributes.get(names.EXCEPTION_MESSAGE, "").lstrip())
            place, last = int(told["place"]) if told else -1, root(row.body)
            if (
                last is not None
                and 0 <= place < len(ranks)
                and ranks[place].failed
                and ranks[place].raised is None
            ):
                ranks[place].raised = row._replace(
                    attributes=row.attributes
                    | {names.EXCEPTION_TYPE: last.type, names.EXCEPTION_MESSAGE: last.message}
                )

    def _of(self, row: LogRow) -> Member | None:
        member = self.members.get(_number(row, names.RANK))
        return member if member is not None and member.pid == _number(row, names.PID) else None


def _place(process: str) -> str:
    """Host and pid of a process."""
    return process.rpartition("/")[0]


def told_early(window: Window, member: Member, event: str) -> list[LogRow]:
    """What was said of a member's process, also before anybody knew whose rank it is."""
    rows = window.rows(
        event, attributes={names.PID: str(member.pid)}, everywhere=True, since=member.row.ts - _EARLY
    )
    return [row for row in rows if row.entity == member.process]


def _raised_early(window: Window, member: Member) -> LogRow | None:
    """The exception of a rank that failed so soon that its session was not known yet."""
    mine = [
        row for row in told_early(window, member, "process.exception") if not row.attributes.get(names.THREAD)
    ]
    return mine[-1] if mine else None


@lru_cache(maxsize=16)
def _differ(told: tuple[tuple[str, ...], ...]) -> bool:
    """Whether any two ranks have called anything else at one place."""
    places: dict[tuple[str, int], tuple[str, ...]] = {}
    for bodies in told:
        for body in bodies:
            for call in _calls(body)[1]:
                if places.setdefault(call[:2], call[2:5]) != call[2:5]:
                    return True
    return False


@lru_cache(maxsize=16)
def _pace(
    told: tuple[tuple[int, tuple[str, ...]], ...], groups: tuple[tuple[str, frozenset[int]], ...]
) -> Pace:
    """By the bodies of each rank's readings, the newest first: most ticks bring none, and the answer is known."""
    return pace.find({number: _unbroken(bodies) for number, bodies in told}, dict(groups))


def _unbroken(bodies: tuple[str, ...]) -> list[Call]:
    """The newest calls without a hole, oldest first."""
    parts: list[tuple[Call, ...]] = []
    for body in bodies:
        gap, calls = _calls(body)
        if not calls:
            break
        parts.append(calls)
        enough = parts[0][-1].created - calls[0].created >= pace.WINDOWS[-1] * 1_000_000_000
        if gap or enough or sum(map(len, parts)) >= _PACED:
            break
    return [call for part in reversed(parts) for call in part][-_PACED:]


@lru_cache(maxsize=512)
def _calls(body: str) -> tuple[bool, tuple[Call, ...]]:
    """The calls of a reading, and whether some were left out before them; see the agent's `calls`."""
    held: dict[str, Any] = _object(body)
    try:
        kinds = [tuple(map(str, kind)) for kind in held["kinds"]]
        numbers, at, found = held["calls"], int(held["since"]), []
        for kind, sequence, after in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            at += after * 1000
            group, operation, sizes, dtypes = kinds[kind]
            found.append(Call(group, sequence, operation, sizes, dtypes, at))
    except (KeyError, IndexError, TypeError, ValueError):
        return True, ()  # another agent's, or a damaged one's
    return bool(held.get("gap")), tuple(found)


@lru_cache(maxsize=4096)
def _positions(body: str) -> tuple[Mapping[str, int], Mapping[str, int]]:
    groups = _object(body).get("groups")
    begun, done = {}, {}
    for name, held in groups.items() if isinstance(groups, dict) else ():
        if isinstance(held, list) and len(held) == 2 and all(isinstance(one, int) for one in held):
            begun[name], done[name] = max(0, held[0]), max(0, held[1])
    return begun, done


def _snapshot(row: LogRow) -> Snapshot:
    begun, done = _positions(row.body)
    frozen = row.attributes.get(names.PROCESS_STATE, "") in _STOPPED
    sleeps = _number(row, names.SWITCHES) if names.SWITCHES in row.attributes else -1
    return Snapshot(row.ts, row.state, frozen, sleeps, begun, done, row)


def _dump(row: LogRow) -> Dump | None:
    try:
        held = json.loads(row.body)
    except ValueError:
        return None
    threads = [one for one in held if isinstance(one, dict)] if isinstance(held, list) else []
    one = _trains({str(one.get("thread")): one for one in threads})
    if one is None:
        return None
    reading, call = row.attributes.get(names.READING, ""), str(one.get("call") or "")
    return Dump(row.ts, reading, _frames(one), bool(one.get("active")), call, row)


def _trains(threads: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The main thread; where that waits for the end of another, the one that is in a collective or in the user's code."""
    main = threads.get("MainThread")
    frames = _frames(main) if main is not None else []
    last = frames[-1] if frames else stacks.Frame("", "", 0)
    if last.function.rpartition(".")[2] not in _JOINS or not last.file.endswith("/threading.py"):
        return main
    others = [one for one in threads.values() if one is not main and any(frame.own for frame in _frames(one))]
    inside = [one for one in others if any("/torch/distributed/" in frame.file for frame in _frames(one))]
    chosen = inside or others
    return chosen[0] if len(chosen) == 1 else main


def _frames(thread: Mapping[str, Any]) -> list[stacks.Frame]:
    return stacks.frames(thread.get("frames") or ())


def _object(text: str) -> dict[str, object]:
    try:
        held = json.loads(text)
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _number(row: LogRow, key: str) -> int:
    value = row.attributes.get(key, "")
    return int(value) if value.lstrip("-").isdigit() else 0
