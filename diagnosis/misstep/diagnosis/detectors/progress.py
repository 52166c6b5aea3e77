"""Whether a session gets on: what starts, what ends, what runs."""

from __future__ import annotations

from collections.abc import Iterable

from misstep.core import names
from misstep.diagnosis.roster import Roster, Task
from misstep.diagnosis.window import SECOND, Window, entity_id

_CPU = "process.cpu.time"
_BUSY = 0.3
"""Cores."""
_OVER = ("FINISHED", "FAILED")


def progressed(window: Window, since: int, until: int | None = None) -> bool:
    """Whether any task started or ended, or any actor or node came up, in an interval."""
    return window.moved(since, until)


def computes(window: Window, pids: Iterable[int], since: int, share: float = _BUSY) -> bool:
    """Whether a process has taken a share of a core over an interval.

    The usual share is that of a driver that has worked by itself for most of it: then it waits for nobody, however still
    Ray is. One that waits in ``ray.get`` needs a few hundredths of a core.
    """
    for pid in sorted({pid for pid in pids if pid}):
        used = 0.0
        for series in window.view.samples(_CPU, {names.PID: str(pid)}, since=since, until=window.at):
            if len(series.ts) >= 2 and series.ts[-1] > series.ts[0]:
                seconds = (int(series.ts[-1]) - int(series.ts[0])) / SECOND
                used += (float(series.values[-1]) - float(series.values[0])) / seconds
        if used >= share:
            return True
    return False


def running(window: Window, roster: Roster) -> list[Task]:
    """Tasks and methods that run now: those whose run was reported and whose end was not; drivers left out."""
    rows = window.rows("ray.task.lifecycle", states=("RUNNING",), limit=400, newest=True)
    entities = sorted({row.entity for row in rows})
    over = set()
    for start in range(0, len(entities), 200):
        part = entities[start : start + 200]
        over |= {row.entity for row in window.rows("ray.task.lifecycle", entities=part, states=_OVER)}
    tasks = roster.tasks(entity_id(entity) for entity in entities if entity not in over)
    return sorted(
        (task for task in tasks.values() if task.kind not in ("driver", "creation")),
        key=lambda task: (task.submitted, task.id),
    )
