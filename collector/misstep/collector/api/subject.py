"""From what a person writes after ``entity=`` to the records and log lines that are about it."""

from __future__ import annotations

from typing import Any, NamedTuple

from misstep.core import names
from misstep.core.identity import Entity
from misstep.store.rows import EntityRow
from misstep.store.view import View

_NAMES = {
    "task": (names.RAY_TASK_NAME,),
    "actor": (names.RAY_ACTOR_CLASS, "name"),
    "process": (names.PID, names.PROCESS_TITLE),
    "ray_worker": (names.PID,),
    "ray_node": (names.RAY_NODE_NAME,),
    "host": (names.HOST_NAME,),
    "job": (names.RAY_SUBMISSION,),
    "rank": (names.RANK,),
}
"""Attributes by which a person may call an entity of a kind, besides its id or the first letters of it."""

_LINES = {
    "actor": names.RAY_ACTOR,
    "job": names.RAY_JOB,
    "ray_worker": names.RAY_WORKER,
    "ray_node": names.RAY_NODE,
}
"""Attribute of a log line that holds the id of the entity it belongs to."""

_PREFIX = 4
_MOST = 20


class Selection(NamedTuple):
    """One set of filters of `View.logs`."""

    entities: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    plain: bool | None = None

    def filters(self) -> dict[str, Any]:
        """As keyword arguments of `View.logs`."""
        found: dict[str, Any] = {}
        if self.entities:
            found["entities"] = self.entities
        if self.attributes:
            found["attributes"] = dict(self.attributes)
        if self.plain is not None:
            found["plain"] = self.plain
        return found


def resolve(view: View, session: str | None, text: str) -> list[Selection]:
    """The selections whose union is about an entity: its events, and the log lines of its worker or process.

    Args:
        view: where to look.
        session: the session it belongs to, if that is known.
        text: ``kind/id``, ``kind/name`` or ``kind/`` with the beginning of the id.

    Raises:
        ValueError: it is not of that form.
    """
    wanted = Entity.parse(text)
    rows = view.entities(session=session, ids=(text,)) or _by_name(view, session, wanted)
    entities = tuple(dict.fromkeys([row.entity for row in rows[:_MOST]])) or (text,)
    selections = [Selection(entities=entities)]
    for entity in entities:
        parsed = Entity.parse(entity)
        if parsed.kind in _LINES:
            selections.append(Selection(attributes=((_LINES[parsed.kind], parsed.id),), plain=True))
        elif parsed.kind == "process":
            selections += _lines_of_process(parsed)
        elif parsed.kind == "task":
            selections += _lines_of_task(view, session, entity)
    return list(dict.fromkeys(selections))


def _by_name(view: View, session: str | None, wanted: Entity) -> list[EntityRow]:
    rows = view.entities(session=session, kind=wanted.kind)
    keys = _NAMES.get(wanted.kind, ())
    named = [r for r in rows if any(r.attributes.get(k) == wanted.id for k in keys)]
    if named or len(wanted.id) < _PREFIX:
        return named
    return [r for r in rows if r.entity.startswith(str(wanted))]


def _lines_of_process(process: Entity) -> list[Selection]:
    parts = process.id.split("/")
    if len(parts) != 3:
        return []
    return [Selection(attributes=((names.PID, parts[1]),), plain=True)]


def _lines_of_task(view: View, session: str | None, task: str) -> list[Selection]:
    """A line names its worker, not its task: the lines of the workers that the task ran on."""
    workers = [r.target for r in view.relations(session=session, source=task) if r.relation == "runs_on"]
    found = []
    for worker in workers:
        kind, _, id = worker.partition("/")
        if kind == "ray_worker":
            found.append(Selection(attributes=((names.RAY_WORKER, id),), plain=True))
    return found
