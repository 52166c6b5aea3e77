"""Whether a session gets on: what starts, what ends, what runs."""

from __future__ import annotations

from misstep.diagnosis.roster import Roster, Task
from misstep.diagnosis.window import Window, entity_id

_OVER = ("FINISHED", "FAILED")


def progressed(window: Window, since: int, until: int | None = None) -> bool:
    """Whether any task started or ended, or any actor or node came up, in an interval."""
    return window.moved(since, until)


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
