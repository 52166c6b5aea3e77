"""One rank of a training job, as far as this machine sees it."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from misstep.agent.torch.calls import Told
from misstep.agent.torch.progress import NOTHING
from misstep.agent.torch.recorder import Collective, Position

STOPPED = 2.0
"""Seconds without a collective after which a rank is looked at, or so many times its usual pause."""
_KEPT = 15


class Rank:
    """A rank with its hook, or without: then only its process is known.

    Attributes:
        start: clock ticks since boot; with the pid it names the process for ever.
        number: its rank; -1 until it is known.
        session: ours; empty until it is known.
        moved: monotonic seconds of the last change of its status.
        silent: since when it owes an answer, monotonic seconds; 0 while it owes none for long.
        steps: how often its status changed.
        told_calls: which of its calls were told.
        names: group name by `pg_id`.
        mixed: `pg_id` of groups whose status counts sends and receives too: there the last reading of entries holds.
        workload: what its script tells of its steps.
    """

    def __init__(self, pid: int, start: int, path: str = "") -> None:
        self.pid, self.start, self.path = pid, start, path
        self.number = -1
        self.world = 0
        self.session = ""
        self.told: dict[str, Any] = {}
        self.hello: dict[str, Any] = {}
        self.positions: dict[str, Position] = {}
        self.names: dict[str, str] = {}
        self.mixed: frozenset[str] = frozenset()
        self.workload = NOTHING
        self.status = b""
        self.moved = 0.0
        self.silent = 0.0
        self.steps = 0
        self.recording = True
        self.traced = ""
        self.told_calls = Told()
        self._pauses: deque[float] = deque(maxlen=_KEPT)
        self._shipped: dict[tuple[str, int], str] = {}

    @property
    def entity(self) -> str:
        """``rank/<session>/<number>``."""
        return f"rank/{self.session}/{self.number}"

    @property
    def server(self) -> str:
        """Path of the worker server's socket."""
        return self.path.removesuffix(".py") + ".fr"

    @property
    def handlers(self) -> list[str]:
        """The worker server's handlers that hold a Flight Recorder."""
        return [str(one) for one in self.hello.get("handlers", ())]

    def by_group(self) -> dict[str, Position]:
        """Where it stands in each group, as far as the groups' names are known."""
        return {self.names[id]: held for id, held in self.positions.items() if id in self.names}

    @property
    def waits(self) -> bool:
        """Whether it has begun a collective that has not come to its end."""
        return any(one.enqueued > one.completed for one in self.positions.values())

    def totals(self) -> tuple[int, int]:
        """Collectives that it has begun and that came to their end."""
        held = self.positions.values()
        return sum(max(0, one.enqueued) for one in held), sum(max(0, one.completed) for one in held)

    def see(self, status: bytes, positions: dict[str, Position], now: float) -> bool:
        """Take an answer; True if anything moved since the last one."""
        self.silent = 0.0
        if status == self.status:
            return False
        if self.steps:
            self._pauses.append(now - self.moved)
        held = {id: self.positions[id] for id in self.mixed if id in self.positions}
        self.status, self.positions, self.moved = status, positions | held, now
        self.steps += 1
        return True

    def stands(self, now: float) -> bool:
        """Whether it has not moved for longer than it usually does, or does not answer."""
        if not self.steps:
            return False
        usual = sorted(self._pauses)[len(self._pauses) // 2] if self._pauses else 0.0
        return now - self.moved >= max(STOPPED, 3 * usual) or (
            self.silent > 0 and now - self.silent >= STOPPED
        )

    def fresh(self, collectives: list[Collective], most: int) -> list[Collective]:
        """Of each group the newest that were not told yet, or told in another state."""
        found: list[Collective] = []
        groups: dict[str, list[Collective]] = {}
        for one in collectives:
            groups.setdefault(one.group, []).append(one)
        shipped: dict[tuple[str, int], str] = {}
        for group, held in groups.items():
            for one in held[-most:]:
                key = (group, one.sequence)
                shipped[key] = f"{one.operation} {one.state}"
                if self._shipped.get(key) != shipped[key]:
                    found.append(one)
        self._shipped = shipped
        return sorted(found, key=lambda one: (one.created, one.record))

    def groups(self) -> str:
        """The groups that it belongs to, as JSON."""
        return json.dumps(self.hello.get("groups", {}), separators=(",", ":"), sort_keys=True)
