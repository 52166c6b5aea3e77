"""Attempts of tasks that failed, told once for each fault rather than once for each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from misstep.core import names
from misstep.diagnosis.failures import Failure, classify
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Roster, Task, actor_of_task
from misstep.diagnosis.window import Window, entity_id
from misstep.store.rows import LogRow

OLDEST = 400
NEWEST = 200
"""So many failed attempts are read from either end of the window; the rest counts, but is not read."""

_SAYS = {
    "task.raised": "fails: {type}: {message}",
    "task.lost_worker": "fails, its worker died",
    "task.lost_actor": "fails, its actor died",
    "task.out_of_memory": "fails, OUT_OF_MEMORY",
    "task.lost_node": "fails, its node died",
    "task.lost_object": "fails, an object that it needs is lost",
    "task.no_environment": "cannot start: {reason}",
    "task.unschedulable": "cannot be placed: {reason}",
    "task.failed": "fails, {error}: {reason}",
}

_MEANT = {
    "runtimeEnvFailedContext": "RUNTIME_ENV_SETUP_FAILED",
    "actorUnschedulableContext": "ACTOR_UNSCHEDULABLE_ERROR",
}


def observe(window: Window, roster: Roster) -> list[Observation]:
    """Failed attempts of the window, gathered by what they have in common."""
    rows = window.rows("ray.task.lifecycle", states=("FAILED",), since=window.since, limit=OLDEST)
    if len(rows) >= OLDEST:
        newest = window.rows(
            "ray.task.lifecycle", states=("FAILED",), since=window.since, limit=NEWEST, newest=True
        )
        rows = sorted(
            {(row.seq, row.row): row for row in (*rows, *newest)}.values(),
            key=lambda row: (row.ts, row.entity),
        )
    if not rows:
        return []
    tasks = roster.tasks(entity_id(row.entity) for row in rows)
    lost = [row for row in rows if _error(window, row)[0] == "WORKER_DIED"]
    workers = attempt_workers(window, {entity_id(row.entity) for row in lost})
    later = attempts(
        window,
        {row.entity for row in lost}
        | {row.entity for row in rows if _error(window, row)[0] == "OUT_OF_MEMORY"},
    )
    gathered: dict[tuple[str, frozenset[str]], list[tuple[LogRow, Failure, Task | None]]] = {}
    for row in rows:
        id = entity_id(row.entity)
        task = tasks.get(id)
        kind, text = _error(window, row)
        worker = row.attributes.get(names.RAY_WORKER) or workers.get((id, _attempt(row)), "")
        actor = (task.actor if task else "") or actor_of_task(id)
        failure = classify(
            kind,
            text,
            task=id,
            function=task.name if task else row.attributes.get(names.RAY_TASK_NAME, ""),
            worker=worker,
            actor=actor,
            node=row.attributes.get(names.RAY_NODE, ""),
        )
        if failure.kind:
            gathered.setdefault((failure.kind, failure.links), []).append((row, failure, task))
    return [_gather(window, kind, links, members, later) for (kind, links), members in gathered.items()]


def _gather(
    window: Window,
    kind: str,
    links: frozenset[str],
    members: list[tuple[LogRow, Failure, Task | None]],
    later: Mapping[str, tuple[int, bool]],
) -> Observation:
    row, failure, task = members[0]
    facts: dict[str, Any] = dict(failure.facts)
    facts["job"] = (task.job if task else "") or row.attributes.get(names.RAY_JOB, "")
    facts["last"] = max(member[0].ts for member in members)
    facts["functions"] = tuple(sorted({member[2].name for member in members if member[2] is not None}))
    facts["function"] = facts.get("function") or (task.name if task else "")
    facts["own"] = sum(1 for member in members if member[2] is None or member[2].name == facts["function"])
    own = [member[0] for member in members]
    known = [later[member.entity] for member in own if member.entity in later]
    facts["attempts"] = max((number for number, _ in known), default=1)
    facts["failed"] = max(len(own) if len({one.entity for one in own}) == 1 else 1, failed_last(own))
    facts["finished"] = bool(known) and all(finished for _, finished in known)
    facts["retried"] = bool(known) and all(number > failed_last(own) for number, _ in known)
    if task is not None:
        facts["resources"] = task.resources
        facts["calls"] = task.calls.path if task.calls else ""
        facts["submitted"] = task.submitted
    return Observation(
        kind=kind,
        entity=row.entity,
        name=f"task {facts['function']}" if facts["function"] else "a task",
        ts=row.ts,
        statement=_SAYS[kind].format_map(_Known(facts)).rstrip(": "),
        source="ray_events",
        links=links,
        facts=facts,
        evidence=of_rows(own),
        count=len(members),
    )


def failed_last(rows: list[LogRow]) -> int:
    """How many attempts there were up to the last that failed."""
    return max(_attempt(row) for row in rows) + 1


def attempts(window: Window, entities: set[str]) -> dict[str, tuple[int, bool]]:
    """For each task: how many attempts were begun, and whether the last one finished well."""
    found: dict[str, tuple[int, bool]] = {}
    for start in range(0, len(entities), 200):
        for row in window.rows("ray.task.lifecycle", entities=sorted(entities)[start : start + 200]):
            number = _attempt(row) + 1
            best, finished = found.get(row.entity, (0, False))
            done = row.state == "FINISHED"
            found[row.entity] = (
                max(best, number),
                (finished and number <= best) or (done and number >= best),
            )
    return found


def attempt_workers(window: Window, tasks: set[str]) -> dict[tuple[str, int], str]:
    """On which worker each attempt of these tasks was put; the event of the failure itself often does not say."""
    found: dict[tuple[str, int], str] = {}
    wanted = sorted(f"task/{id}" for id in tasks)
    for start in range(0, len(wanted), 200):
        for row in window.rows("ray.task.lifecycle", entities=wanted[start : start + 200]):
            worker = row.attributes.get(names.RAY_WORKER)
            if worker:
                found[(entity_id(row.entity), _attempt(row))] = worker
    return found


def _attempt(row: LogRow) -> int:
    number = row.attributes.get(names.RAY_ATTEMPT, "0")
    return int(number) if number.isdigit() else 0


def _error(window: Window, row: LogRow) -> tuple[str, str]:
    """Ray's error type and message of a failed attempt; they may come in a record of their own."""
    found = _error_of(window, row)
    if found[0]:
        return found
    for other in window.rows("ray.task.lifecycle", entities=(row.entity,)):
        if _attempt(other) == _attempt(row) and _error_of(window, other)[0]:
            return _error_of(window, other)
    return "", ""


def _error_of(window: Window, row: LogRow) -> tuple[str, str]:
    error = window.body(row).get("rayErrorInfo") or {}
    kind = str(error.get("errorType") or row.attributes.get(names.RAY_ERROR_TYPE, ""))
    text = str(error.get("errorMessage") or "")
    died = error.get("actorDiedError") or {}
    for (
        context,
        meant,
    ) in _MEANT.items():  # the creation of an actor is told as WORKER_DIED, whatever befell it
        if died.get(context):
            return meant, text or str(died[context].get("errorMessage") or "")
    for value in error.values():
        if not text and isinstance(value, dict):
            text = str(value.get("errorMessage") or "")
    died = died.get("actorDiedErrorContext") or {}
    if died.get("className"):
        text += f"\n\tclass_name: {died['className']}\n\tactor_id: {died.get('actorId', '')}\n\tpid: {died.get('pid', 0)}\n\tip: {died.get('nodeIpAddress', '')}"
    return kind, text


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return ""
