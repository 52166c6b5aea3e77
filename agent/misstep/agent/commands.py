"""Commands under `misstep run` that never start a cluster: each becomes a session of its own when it ends or raises.

A script that fails at its imports has no Ray session, and its owner wants to know why all the same.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from misstep.agent import pids
from misstep.agent.records import Records
from misstep.core import names
from misstep.core.identity import Session

_KEPT = 256


class _Command(NamedTuple):
    session: str
    started: int
    line: str


class Commands:
    """What `misstep run` reported, by pid.

    Args:
        site: first part of the sessions' names.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._running: dict[int, _Command] = {}
        self._told: set[int] = set()

    def begin(self, pid: int, started: int, line: str) -> None:
        """A command was started, Unix nanoseconds."""
        when = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(started // 1_000_000_000))
        session = Session(self._site, "command", _name(line), f"{when}_{pid}")
        self._running[pid] = _Command(str(session), started, line)
        while len(self._running) > _KEPT:
            self._told.discard(next(iter(self._running)))
            del self._running[next(iter(self._running))]

    def session(self, pid: int, out: Records) -> str:
        """The session of a process that is such a command or was started by one, announced at the first call; or empty."""
        command = self._find(pid)
        if not command:
            return ""
        found = self._running[command]
        if command not in self._told:
            self._told.add(command)
            out.event(
                "session.start", entity=f"session/{found.session}", session=found.session, time=found.started,
                attributes={"misstep.started_by": "run", names.COMMAND: found.line}, body=found.line,
            )  # fmt: skip
        return found.session

    def end(self, pid: int, out: Records) -> None:
        """A command is over; a session that it became is, too."""
        found = self._running.pop(pid, None)
        if found is not None and pid in self._told:
            out.event(
                "session.end", entity=f"session/{found.session}", session=found.session, state="ended",
                body="the command ended",
            )  # fmt: skip
        self._told.discard(pid)

    def _find(self, pid: int) -> int:
        while pid > 1:
            if pid in self._running:
                return pid
            pid = pids.parent(pid)
        return 0


def _name(line: str) -> str:
    """The script of a command line, else its program."""
    words = line.split()
    script = next((word for word in words if word.endswith((".py", ".sh"))), words[0] if words else "command")
    return os.path.basename(script) or "command"
