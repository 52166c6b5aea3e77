"""Follows what training jobs write into files: their output, NCCL's log, torchrun's error files.

What goes to a terminal or a pipe is nobody's but its reader's; `torchrun --log-dir DIR --tee 3` makes files of it and
shows it all the same. Files may lie where reading blocks, so a thread reads them; it is begun with the first rank.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState, off
from misstep.agent.records import Records
from misstep.agent.watched_thread import WatchedThread
from misstep.agent.workload import Process

if TYPE_CHECKING:
    from misstep.agent.torch.followed import Holder
    from misstep.agent.torch.reader import Reader

_ROUND, _IDLE_ROUND = 1.0, 5.0
_REMEDY = "torchrun --log-dir logs --tee 3 …"
_ROLES = ("rank", "launcher", "command")


class TrainingLogs:
    """Probe of the files: looks on the main thread who writes, and reads on its own."""

    source = "training_logs"
    interval = 2.0
    follows_events = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader: Reader | None = None
        self._news = threading.Event()
        self._thread = WatchedThread("training_logs", self._run, context.clock)

    def supported(self) -> SourceState:
        """Always; without ranks there is nothing to read."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Say who writes, and see that the thread lives."""
        held = [one for one in self._context.workload.processes(*_ROLES) if "/torch/" in one.session]
        if self._reader is None:
            if not held:
                return off("no training job runs on this machine")
            from misstep.agent.torch.reader import Reader  # here: most machines have no rank

            self._reader = Reader(self._context)
        known = {(one.pid, one.start, one.session): one for one in self._reader.holders}
        holders = [
            known.get((one.pid, one.start, one.session)) or _holder(one, self._context) for one in held
        ]
        if holders != self._reader.holders:
            self._reader.holders = holders
            self._news.set()
        state, read = self._thread.watch(), self._reader.sessions()
        for session in {one.session for one in held}:
            told = state if state.name != "ok" or session in read else off("its ranks write to a terminal or a pipe", _REMEDY)  # fmt: skip
            self._context.coverage.report(self.source, told, session)
        return None

    def close(self) -> None:
        """End the thread."""
        self._thread.stopping.set()
        self._news.set()
        self._thread.close(2.0)

    def _run(self) -> None:
        while self._reader is not None and not self._thread.stopping.is_set():
            self._news.clear()
            self._reader.read()
            self._news.wait(_IDLE_ROUND if self._reader.idle else _ROUND)


def _holder(process: Process, context: Context) -> Holder:
    from misstep.agent.torch.followed import Holder

    environment = process.environment
    number, local = environment.get("RANK", ""), environment.get("LOCAL_RANK", "")
    rank = int(number) if process.role == "rank" and number.isdecimal() else -1
    return Holder(
        process.pid, process.start, context.workload.entity(process),
        f"rank/{process.session}/{rank}" if rank >= 0 else "", process.session, rank,
        int(local) if rank >= 0 and local.isdecimal() else -1, _user(process.pid), "MISSTEP_STARTED_BY" in environment,
        environment.get("NCCL_DEBUG_FILE", ""), environment.get("TORCHELASTIC_ERROR_FILE", "") if rank >= 0 else "",
    )  # fmt: skip


def _user(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1  # gone; a file of nobody's is not read
