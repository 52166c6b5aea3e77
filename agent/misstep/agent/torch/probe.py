"""The probe of training jobs: finds ranks by their sockets and by their environment, and has them watched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from misstep.agent import pids
from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, failing, off, unsupported
from misstep.agent.records import Records
from misstep.agent.series import Series, declared
from misstep.agent.torch import door, pyspy
from misstep.agent.torch.door import Door
from misstep.agent.torch.folders import Folders
from misstep.agent.torch.jobs import Jobs
from misstep.agent.torch.progress import Points
from misstep.agent.torch.rank import Rank
from misstep.core import names
from misstep.core.clock import SECOND

if TYPE_CHECKING:
    from misstep.agent.torch.watcher import Watcher

_LIST_EVERY = 5 * SECOND
_YOUNG = 5.0
"""Seconds in which a socket may be bound and not listen yet."""


class TorchProbe:
    """Runs no thread and opens nothing until the first rank appears."""

    source = "torch_collectives"
    interval = 1.0
    follows_events = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._jobs = Jobs(context)
        self._watcher: Watcher | None = None
        self._lock = threading.Lock()
        self._greeted: list[Rank] = []
        self._lost: list[Rank] = []
        self._known: dict[str, Rank] = {}
        self._outside: set[tuple[int, int]] = set()
        self._folders = Folders(context.settings.agent.torch_folder)
        self._pyspy = ""
        self._counted = -1
        self._list_due = 0
        self._series: dict[str, tuple[Series, Series, Points]] = {}
        context.workload.want_stacks = self.want_stacks

    def supported(self) -> SourceState:
        """Always: without ranks there is merely nothing to say."""
        return OK

    def ranks(self) -> list[Rank]:
        """Those whose hook answers."""
        return list(self._known.values())

    def want_stacks(self, session: str) -> bool:
        """Take the stacks of a job's ranks now; False if no rank of it runs here. Any thread may ask."""
        watcher = self._watcher
        if watcher is None or session not in self._jobs.sessions():
            return False
        watcher.want_stacks(session)
        return True

    def check(self, now: int, out: Records) -> SourceState | None:
        """Look for newcomers, and tell what the thread has learned."""
        self._discover()
        with self._lock:
            greeted, self._greeted = self._greeted, []
            lost, self._lost = self._lost, []
        for rank in greeted:
            rank.start = rank.start or pids.start_ticks(rank.pid)
            if rank.start and rank.number >= 0:
                self._outside.add((rank.pid, rank.start))
                self._jobs.admit(rank, out)
        for rank in lost:
            self._known.pop(rank.path, None)
            self._series.pop(rank.path, None)
            if not pids.is_running(rank.pid, rank.start):
                door.sweep(rank.path)
        self._from_outside(out)
        self._jobs.watch(out)
        for ranks in self._jobs.blind():
            self._watching().glimpse(ranks)
        for rank in self._known.values():
            self._count(rank, out)
        if self._watcher is not None and (life := self._watcher.watch()) != OK:
            return life
        if not self._jobs.sessions():
            return off("no rank of torch runs on this machine")
        self._context.coverage.report("torch_stacks", self._stacks_state())
        return None

    def close(self) -> None:
        """End the thread."""
        if self._watcher is not None:
            self._watcher.close()

    def _discover(self) -> None:
        now, monotonic = self._context.clock.now(), self._context.clock.monotonic()
        if monotonic >= self._list_due:
            self._list_due = monotonic + _LIST_EVERY
            self._folders.search(now)
            self._pyspy = pyspy.program()
        for folder in self._folders.changed(now):
            self._list(folder)

    def _list(self, folder: str) -> None:
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if name.endswith(".py") and path not in self._known:
                self._meet(path)

    def _meet(self, path: str) -> None:
        try:
            knock = Door(path)
        except ConnectionRefusedError:
            if time.time() - os.stat(path).st_mtime > _YOUNG:
                door.sweep(path)  # its process was killed
            return
        except OSError:
            return
        knock.close()
        if knock.user not in (os.stat(path).st_uid, 0) or knock.pid <= 0:
            return
        rank = self._known[path] = Rank(knock.pid, pids.start_ticks(knock.pid), path)
        self._watching().take(rank)

    def _watching(self) -> Watcher:
        if self._watcher is None:
            from misstep.agent.torch.watcher import Watcher  # here: most machines have no rank

            self._watcher = Watcher(self._context, self._hello, self._goodbye)
        return self._watcher

    def _hello(self, rank: Rank) -> None:
        with self._lock:
            self._greeted.append(rank)

    def _goodbye(self, rank: Rank) -> None:
        with self._lock:
            self._lost.append(rank)

    def _from_outside(self, out: Records) -> None:
        """Ranks that the process table knows by their environment: their hook speaks with the first group, or never."""
        counted = self._context.workload.changes
        if counted == self._counted:
            return
        self._counted = counted
        for process in self._context.workload.processes("rank"):
            mark = (process.pid, process.start)
            number, world = process.environment.get("RANK", ""), process.environment.get("WORLD_SIZE", "")
            if mark in self._outside or not number.isdecimal() or not self._is_watched(process.environment):
                continue
            self._outside.add(mark)
            rank = Rank(process.pid, process.start)
            rank.number, rank.world = int(number), int(world) if world.isdecimal() else 0
            self._jobs.admit(rank, out)

    def _is_watched(self, environment: Mapping[str, str]) -> bool:
        """Whether a rank is this agent's: where one folder is set, only those that are told to use it."""
        only = self._context.settings.agent.torch_folder
        return not only or environment.get("MISSTEP_TORCH_FOLDER") == only

    def _count(self, rank: Rank, out: Records) -> None:
        if not rank.session or not rank.steps:
            return
        held = self._series.get(rank.path)
        if held is None:
            labels: dict[str, Value] = {
                names.ENTITY: rank.entity,
                names.SESSION: rank.session,
                names.RANK: rank.number,
            }
            held = (
                declared("torch.collectives", labels),
                declared("torch.collectives.completed", labels),
                Points(labels),
            )
            self._series[rank.path] = held
        begun, completed, points = held
        for series, value in zip((begun, completed), rank.totals(), strict=True):
            out.point(series, value)
        points.add(rank.workload, out)

    def _stacks_state(self) -> SourceState:
        if not self._pyspy:
            return unsupported(
                "py-spy is not installed; the ranks' own threads tell, where they can", "pip install py-spy"
            )
        refused = self._watcher.refused if self._watcher is not None else ""
        if not refused:
            return OK
        said = f"py-spy gave none ({refused}); the ranks' own threads tell, where they can"
        if "permitted" in refused.lower() or "permission" in refused.lower():
            return unsupported(said, "sudo sysctl kernel.yama.ptrace_scope=0")
        return failing(said)
