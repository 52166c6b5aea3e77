"""Tasks and actors that wait for resources: such as no node has, and such as somebody holds who will not let go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from misstep.diagnosis.detectors.progress import progressed, running
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Node, Roster, Task
from misstep.diagnosis.window import SECOND, Window, entity_id
from misstep.store.rows import LogRow

STANDS = 5 * SECOND
"""A cluster that grows may offer a moment later what it does not offer now."""

HELD = 15 * SECOND
"""So long nothing may start or end before waiting counts as being stuck."""

_SEEN = 30 * SECOND
_DEMANDED = 60 * SECOND
_WAITS = ("PENDING_NODE_ASSIGNMENT",)
_HELD_ROWS = 2000
_MOST = 100
"""So many waiting tasks are looked at from either end of the queue."""
_BEYOND = (
    "SUBMITTED_TO_WORKER", "PENDING_ACTOR_TASK_ARGS_FETCH", "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY", "GETTING_AND_PINNING_ARGS",
    "RUNNING", "RUNNING_IN_RAY_GET", "RUNNING_IN_RAY_WAIT", "FINISHED", "FAILED",
)  # fmt: skip
_ANY_GROUP = "f" * 36


def infeasible(
    window: Window, roster: Roster, *, stands: int = STANDS, until: int | None = None
) -> list[Observation]:
    """Tasks and actors that ask for more than any node has, and have done so for a while.

    Args:
        stands: for how long, in nanoseconds.
        until: look at the moment when a driver left, rather than at the tick.
    """
    offers = [node for node in roster.nodes.values() if node.resources and not node.ended]
    if not offers:
        return []
    found: dict[str, list[tuple[Task, LogRow]]] = {}
    end = window.at if until is None else until
    for task, row in waiting(
        window, roster, since=end - _SEEN - stands, until=end - stands, gone=until is not None
    ):
        if not any(fits(task.resources, node.resources) for node in offers):
            found.setdefault(label(roster, task), []).append((task, row))
    seen = [_infeasible(roster, name, members, offers) for name, members in found.items()]
    known = [dict(one.facts["asked"]) for one in seen]
    return seen + [
        one for one in demanded(window, stands=stands, until=end) if dict(one.facts["asked"]) not in known
    ]


def demanded(window: Window, *, stands: int, until: int) -> list[Observation]:
    """Demands that Ray's own autoscaler calls impossible: placement groups, and what no event told of.

    Ray's dashboard is asked every few seconds, so that a demand counts as standing while every answer holds it.
    """
    rows = [
        row for row in window.rows("ray.demand", since=window.since) if until - _DEMANDED <= row.ts <= until
    ]
    if not rows:
        return []
    found = []
    newest = rows[-1]
    for pending in _impossible(window, newest):
        first = newest
        for row in reversed(rows):
            if not any(_same(pending, other) for other in _impossible(window, row)):
                break
            first = row
        if until - first.ts >= stands:
            found.append(_demand(window, pending, first))
    return found


def _impossible(window: Window, row: LogRow) -> list[dict[str, Any]]:
    pending = window.body(row).get("pending")
    return (
        [one for one in pending if isinstance(one, dict) and one.get("fits") is False]
        if isinstance(pending, list)
        else []
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.get("resources") == other.get("resources") and one.get("what") == other.get("what")


def _demand(window: Window, pending: dict[str, Any], row: LogRow) -> Observation:
    asked = {str(key): float(value) for key, value in sorted((pending.get("resources") or {}).items())}
    group = pending.get("what") == "placement_groups"
    bundles = int(pending.get("bundles") or 1)
    nodes = tuple(
        (str(one.get("name") or "node"), dict(one.get("resources") or {}))
        for one in window.body(row).get("nodes") or []
    )
    name = "a placement group" if group else "a task or actor"
    return Observation(
        kind="placement.infeasible",
        entity=window.session and f"session/{window.session}",
        name=name,
        ts=row.ts,
        statement=f"asks for {f'{bundles} bundles of ' if bundles > 1 else ''}{amounts(asked)}, which no node has",
        source="ray_api",
        links=frozenset({f"waits/{name}/{amounts(asked)}"}),
        facts={
            "kind": "group" if group else "task",
            "asked": asked,
            "lacking": tuple(sorted(pending.get("lacking") or asked)),
            "nodes": nodes,
            "bundles": bundles,
            "strategy": str(pending.get("strategy") or ""),
        },
        evidence=of_rows([row]),
        count=int(pending.get("waiting") or 1),
    )


def _infeasible(
    roster: Roster, name: str, members: list[tuple[Task, LogRow]], offers: list[Node]
) -> Observation:
    task, row = members[0]
    most = {
        resource: max(node.resources.get(resource, 0.0) for node in offers) for resource in task.resources
    }
    lacking = tuple(
        sorted(resource for resource, amount in task.resources.items() if most[resource] < amount)
    )
    return Observation(
        kind="placement.infeasible",
        entity=f"actor/{task.actor}" if task.kind == "creation" else row.entity,
        name=name,
        ts=row.ts,
        statement=f"asks for {amounts(task.resources)}, which no node has",
        source="ray_events",
        links=frozenset({f"waits/{name}"}),
        facts={
            "asked": task.resources, "lacking": lacking, "function": task.name, "class": task.class_name, "actor": task.actor if task.kind == "creation" else "",
            "nodes": tuple((node.name, node.resources) for node in sorted(offers, key=lambda node: (not node.head, node.name))),
            "job": task.job, "calls": task.calls.path if task.calls else "", "tasks": tuple(sorted(task.id for task, _ in members)[:5]),
        },
        evidence=of_rows([row, *([task.row] if task.row else [])]),
        count=len(members),
    )  # fmt: skip


def held(window: Window, roster: Roster, *, until: int | None = None) -> list[Observation]:
    """Tasks and actors that wait for what idle actors, or tasks that wait for them, hold.

    Args:
        until: look at the moment when a driver left, rather than at the tick.
    """
    end = window.at if until is None else until - SECOND
    if progressed(window, end - HELD, None if until is None else end):
        return []
    waits = waiting(window, roster, since=window.since, until=end - HELD, gone=until is not None)
    offers = [node for node in roster.nodes.values() if node.resources and not node.ended]
    waits = [
        (task, row)
        for task, row in waits
        if task.resources and any(fits(task.resources, node.resources) for node in offers)
    ]
    if not waits:
        return []
    wanted = {resource for task, _ in waits for resource in task.resources}
    ancestors = _ancestors(roster, [task for task, _ in waits])
    busy = running(window, roster)
    holders: list[tuple[str, str, dict[str, float]]] = []
    for task in busy:
        holds = _actor_resources(roster, task) if task.kind == "method" else task.resources
        if not wanted & set(holds):
            continue
        if task.id not in ancestors:
            return []  # it works, and what it holds comes free when it is done
        holders.append(
            (f"actor {task.class_name}", task.actor, holds)
            if task.kind == "method"
            else (label(roster, task), task.id, holds)
        )
    for actor, resources in _idle_actors(window, roster):
        if wanted & set(resources):
            holders.append((f"actor {roster.actor(actor).class_name}", actor, resources))
    if not holders:
        return []
    names: dict[str, list[tuple[Task, LogRow]]] = {}
    for task, row in waits:
        names.setdefault(label(roster, task), []).append((task, row))
    name, members = max(names.items(), key=lambda item: (len(item[1]), item[0]))
    return [_held(roster, name, members, waits, holders, ancestors)]


def _held(
    roster: Roster,
    name: str,
    members: list[tuple[Task, LogRow]],
    waits: list[tuple[Task, LogRow]],
    holders: list[tuple[str, str, dict[str, float]]],
    ancestors: frozenset[str],
) -> Observation:
    task, row = members[0]
    gathered: dict[str, tuple[int, dict[str, float], str]] = {}
    for who, id, resources in sorted(holders, key=lambda holder: (holder[0], holder[1])):
        count, total, first = gathered.get(who, (0, {}, id))
        gathered[who] = (
            count + 1,
            {key: total.get(key, 0.0) + resources.get(key, 0.0) for key in {*total, *resources}},
            first,
        )
    nested = any(id in ancestors for _, id, _ in holders)
    return Observation(
        kind="placement.held",
        entity=f"actor/{task.actor}" if task.kind == "creation" else row.entity,
        name=name,
        ts=row.ts,
        statement=f"waits for {amounts(task.resources)}",
        source="ray_events",
        links=frozenset({f"waits/{name}"}),
        facts={
            "asked": task.resources, "function": task.name, "class": task.class_name, "actor": task.actor if task.kind == "creation" else "",
            "job": task.job, "calls": task.calls.path if task.calls else "", "waiting": len(waits), "nested": nested,
            "holders": tuple((who, count, total, first) for who, (count, total, first) in sorted(gathered.items())),
            "nodes": tuple((node.name, node.resources) for node in roster.nodes.values() if not node.ended),
            "tasks": tuple(sorted(task.id for task, _ in members)[:5]),
        },
        evidence=of_rows([row]),
        count=len(members),
    )  # fmt: skip


def waiting(
    window: Window, roster: Roster, *, since: int, until: int, gone: bool = False
) -> list[tuple[Task, LogRow]]:
    """Tasks and actor creations that came to wait for a node in an interval and wait still, of drivers that live."""
    left = {job.id for job in roster.jobs if job.finished and not gone}
    rows = window.rows("ray.task.lifecycle", states=_WAITS, since=window.since, limit=_HELD_ROWS, newest=True)
    rows = [row for row in rows if since <= row.ts < until]
    if len(rows) > 2 * _MOST:
        rows = rows[:_MOST] + rows[-_MOST:]
    first: dict[str, LogRow] = {}
    for row in rows:
        first.setdefault(row.entity, row)
    beyond = set()
    entities = sorted(first)
    for start in range(0, len(entities), 200):
        part = entities[start : start + 200]
        later = window.rows("ray.task.lifecycle", entities=part, states=_BEYOND)
        beyond |= {row.entity for row in later if row.ts >= first[row.entity].ts}
    tasks = roster.tasks(entity_id(entity) for entity in entities if entity not in beyond)
    found = []
    for task in tasks.values():
        grouped = (
            task.row is not None
            and window.body(task.row).get("placementGroupId", _ANY_GROUP)[:36] != _ANY_GROUP
        )
        if task.kind in ("task", "creation") and task.resources and not grouped and task.job not in left:
            found.append((task, first[f"task/{task.id}"]))
    return sorted(found, key=lambda item: (item[1].ts, item[0].id))


def fits(asked: Mapping[str, float], offered: Mapping[str, float]) -> bool:
    """Whether a node could ever give what is asked."""
    return all(offered.get(resource, 0.0) >= amount for resource, amount in asked.items() if amount > 0)


def label(roster: Roster, task: Task) -> str:
    """``task train`` or ``actor Learner``."""
    if task.kind == "creation":
        return f"actor {roster.actor(task.actor).class_name or task.class_name or task.name}"
    return f"task {task.name}"


def amounts(resources: Mapping[str, float]) -> str:
    """Resources as a person would say them: ``8 GPU, 1 CPU``, memory in GB."""
    told = []
    for name, amount in sorted(resources.items()):
        if name in ("memory", "object_store_memory"):
            told.append(f"{amount / 1e9:.1f} GB {name.replace('_', ' ')}")
        elif not name.startswith("node:"):
            told.append(f"{amount:g} {name}")
    return ", ".join(told) or "nothing"


def _ancestors(roster: Roster, tasks: list[Task]) -> frozenset[str]:
    """Whoever submitted these tasks, and whoever submitted those."""
    found: set[str] = set()
    wanted = {task.parent for task in tasks}
    for _ in range(16):
        wanted -= found
        if not wanted:
            break
        found |= wanted
        wanted = {task.parent for task in roster.tasks(wanted).values()}
    return frozenset(found)


def _actor_resources(roster: Roster, task: Task) -> dict[str, float]:
    return roster.actor(task.actor).resources if task.actor else {}


def _idle_actors(window: Window, roster: Roster) -> list[tuple[str, dict[str, float]]]:
    """Actors that live and hold something; those whose method runs are judged by that method."""
    rows = window.rows("ray.actor.lifecycle", limit=500, newest=True)
    state = {row.entity: row.state for row in rows}
    busy = {task.actor for task in running(window, roster)}
    found = []
    for entity, last in sorted(state.items()):
        id = entity_id(entity)
        if last == "ALIVE" and (id not in busy):
            resources = {name: amount for name, amount in roster.actor(id).resources.items() if amount > 0}
            if resources:
                found.append((id, resources))
    return found
