"""Tasks and actors that wait for resources: such as no node has, and such as somebody holds who will not let go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from misstep.diagnosis.detectors.progress import computes, progressed, running
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Node, Roster, Task, creation_task
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
    loose = demanded(window, stands=stands, until=end)
    if loose:  # whose it is was told when it came to wait, which may be long ago
        known = [
            task.resources for task, _ in waiting(window, roster, since=0, until=end, gone=until is not None)
        ]
        loose = [
            one
            for one in loose
            if one.facts["kind"] == "group"
            # Ray's answer is some seconds old, and a node may have joined since.
            or (
                dict(one.facts["asked"]) not in known
                and not any(fits(one.facts["asked"], node.resources) for node in offers)
            )
        ]
    return seen + loose


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


class Holder(NamedTuple):
    """Who keeps what others wait for.

    Attributes:
        kind: ``task``, ``actor`` or ``group``.
        how: ``idle`` (it does nothing and keeps it), ``waits`` (for the waiting) or ``reserved`` (a placement group).
        number: how many of this name there are; `holds` is what they hold together.
    """

    kind: str
    name: str
    id: str
    holds: dict[str, float]
    how: str
    number: int = 1

    @property
    def called(self) -> str:
        """``task train``, ``actor Learner`` or ``a placement group``."""
        return self.name if self.kind == "group" else f"{self.kind} {self.name}"


def held(window: Window, roster: Roster, *, until: int | None = None) -> list[Observation]:
    """Tasks, actors and groups that wait for what idle actors, groups, or tasks that wait for them, hold.

    Args:
        until: look at the moment when a driver left, rather than at the tick.
    """
    end = window.at if until is None else until - SECOND
    if progressed(window, end - HELD, None if until is None else end):
        return []
    groups = _groups(window, roster, end, gone=until is not None)
    waits = waiting(window, roster, since=window.since, until=end - HELD, gone=until is not None)
    waits += [(_as_task(group), group.row) for group in groups if group.waits and group.since < end - HELD]
    offers = [node for node in roster.nodes.values() if node.resources and not node.ended]
    waits = [(task, row) for task, row in waits if task.resources and _could_fit(task, offers)]
    if not waits:
        return []
    wanted = {resource for task, _ in waits for resource in task.resources}
    ancestors = _ancestors(roster, [task for task, _ in waits])
    reserved = {group.id for group in groups if not group.waits}
    if until is None and computes(window, [job.pid for job in roster.jobs if not job.finished], end - HELD):
        return []  # the driver works, and may let go when it is done
    holders: list[Holder] = []
    for task in running(window, roster):
        method = task.kind == "method"
        holds = _plain(_actor_resources(roster, task) if method else task.resources)
        if not wanted & set(holds):
            continue
        if task.id not in ancestors:
            return []  # it works, and what it holds comes free when it is done
        if _group_of(window, _creation(roster, task) if method else task) in reserved:
            continue  # the group holds it
        if not method:
            holds = {name: amount for name, amount in holds.items() if name != "CPU"}  # ray.get gives it back
        name = roster.actor(task.actor).class_name or task.class_name if method else task.name
        holders.append(
            Holder("actor" if method else "task", name, task.actor if method else task.id, holds, "waits")
        )
    for actor, resources in _idle_actors(window, roster):
        if _group_of(window, roster.task(creation_task(actor))) not in reserved:
            holders.append(Holder("actor", roster.actor(actor).class_name, actor, resources, "idle"))
    holders += [
        Holder("group", group.name, group.id, group.resources, "reserved")
        for group in groups
        if not group.waits
    ]
    holders = [holder for holder in holders if wanted & set(holder.holds)]
    waits = [(task, row) for task, row in waits if _scarce(task.resources, holders, offers)]
    if not holders or not waits:
        return []
    names: dict[str, list[tuple[Task, LogRow]]] = {}
    for task, row in waits:
        names.setdefault(label(roster, task), []).append((task, row))
    name, members = max(names.items(), key=lambda item: (len(item[1]), item[0]))
    scarce = _scarce(members[0][0].resources, holders, offers)
    return [_held(roster, name, members, len(waits), holders, scarce)]


def _held(
    roster: Roster,
    name: str,
    members: list[tuple[Task, LogRow]],
    waiting: int,
    holders: list[Holder],
    scarce: tuple[str, ...],
) -> Observation:
    task, row = members[0]
    gathered: dict[tuple[str, str], Holder] = {}
    for one in sorted(holders):
        known = gathered.get((one.kind, one.name), one._replace(holds={}, number=0))
        total = {
            key: known.holds.get(key, 0.0) + one.holds.get(key, 0.0) for key in {*known.holds, *one.holds}
        }
        gathered[one.kind, one.name] = known._replace(holds=total, number=known.number + 1)
    wanted = {resource: task.resources[resource] for resource in scarce}
    told = sorted(
        (one for one in gathered.values() if wanted.keys() & one.holds.keys()),
        key=lambda one: (-_share(one.holds, wanted), one.kind, one.name),
    )
    entity = {"creation": f"actor/{task.actor}", "group": f"group/{task.id}"}.get(task.kind, row.entity)
    return Observation(
        kind="placement.held",
        entity=entity,
        name=name,
        ts=row.ts,
        statement=f"waits for {amounts(task.resources)}",
        source="ray_api" if task.kind == "group" else "ray_events",
        links=frozenset({f"waits/{name}"}),
        facts={
            "asked": task.resources, "function": task.name, "class": task.class_name, "actor": task.actor if task.kind == "creation" else "",
            "job": task.job, "calls": task.calls.path if task.calls else "", "waiting": waiting, "holders": tuple(told),
            "scarce": scarce, "kind": {"creation": "actor", "group": "group"}.get(task.kind, "task"), "id": entity_id(entity),
            "nodes": tuple((node.name, node.resources) for node in roster.nodes.values() if not node.ended),
            "tasks": tuple(sorted(task.id for task, _ in members if task.kind != "group")[:5]),
            "groups": tuple(sorted(task.id for task, _ in members if task.kind == "group")[:5]),
        },
        evidence=of_rows([row]),
        count=len(members),
    )  # fmt: skip


def _share(holds: Mapping[str, float], asked: Mapping[str, float]) -> float:
    """How many times over somebody holds what is asked."""
    return max((holds.get(key, 0.0) / amount for key, amount in asked.items() if amount > 0), default=0.0)


def _scarce(asked: Mapping[str, float], holders: list[Holder], offers: list[Node]) -> tuple[str, ...]:
    """What of that is asked is held so far that too little is left.

    On several nodes nobody can tell how much is left on each: there, whatever is held counts.
    """
    found = []
    for resource, amount in sorted(asked.items()):
        held = sum(holder.holds.get(resource, 0.0) for holder in holders)
        whole = sum(node.resources.get(resource, 0.0) for node in offers)
        if held > 0 and amount > 0 and (len(offers) > 1 or whole - held < amount):
            found.append(resource)
    return tuple(found)


class _Group(NamedTuple):
    """A placement group: `waits` until it has all of its bundles, and then holds them until it is removed."""

    id: str
    name: str
    job: str
    resources: dict[str, float]
    waits: bool
    since: int
    row: LogRow


def _groups(window: Window, roster: Roster, end: int, *, gone: bool) -> list[_Group]:
    """The placement groups that are not removed."""
    left = {job.id for job in roster.jobs if job.finished and not gone}
    last: dict[str, LogRow] = {}
    for row in window.rows("ray.placement_group", limit=_HELD_ROWS, newest=True):
        if row.ts <= end:
            last[row.entity] = row
    found = []
    for made in window.rows("ray.placement_group.definition", limit=_HELD_ROWS, newest=True):
        body, now = window.body(made), last.get(made.entity)
        job = str(body.get("creatorJobId") or "")
        if now is None or now.state not in ("PENDING", "CREATED") or (now.state == "PENDING" and job in left):
            continue  # a detached group outlives its driver, and holds on
        resources: dict[str, float] = {}
        for bundle in body.get("bundles") or []:
            for key, amount in (bundle.get("unitResources") or {}).items():
                resources[key] = resources.get(key, 0.0) + float(amount)
        name = f"placement group {body['name']}" if body.get("name") else "a placement group"
        id = entity_id(made.entity)
        found.append(_Group(id, name, job, resources, now.state == "PENDING", made.ts, now))
    return found


def _as_task(group: _Group) -> Task:
    return Task(
        group.id, group.name, "group", group.job, "", "", "", group.resources, group.since, None, None
    )


def _could_fit(task: Task, offers: list[Node]) -> bool:
    """Whether some node could give what is asked; a group may take it from several."""
    if task.kind != "group":
        return any(fits(task.resources, node.resources) for node in offers)
    whole: dict[str, float] = {}
    for node in offers:
        for key, amount in node.resources.items():
            whole[key] = whole.get(key, 0.0) + amount
    return fits(task.resources, whole)


def _group_of(window: Window, task: Task | None) -> str:
    """The placement group that a task or actor was put into, or empty."""
    if task is None or task.row is None:
        return ""
    group = str(window.body(task.row).get("placementGroupId") or "")
    return "" if group.startswith(_ANY_GROUP) else group


def _creation(roster: Roster, task: Task) -> Task | None:
    return roster.task(creation_task(task.actor)) if task.actor else None


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources by their own names: in a placement group Ray calls them ``CPU_group_0_90d7…``."""
    found: dict[str, float] = {}
    for name, amount in resources.items():
        found[name.partition("_group_")[0]] = max(found.get(name.partition("_group_")[0], 0.0), amount)
    return found


def waiting(
    window: Window, roster: Roster, *, since: int, until: int, gone: bool = False
) -> list[tuple[Task, LogRow]]:
    """Tasks and actor creations that came to wait for a node in an interval and wait still, of drivers that live."""
    left = {job.id for job in roster.jobs if job.finished and not gone}
    rows = window.rows("ray.task.lifecycle", states=_WAITS, limit=_HELD_ROWS, newest=True)
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
        grouped = bool(_group_of(window, task))
        if task.kind in ("task", "creation") and task.resources and not grouped and task.job not in left:
            found.append((task, first[f"task/{task.id}"]))
    return sorted(found, key=lambda item: (item[1].ts, item[0].id))


def fits(asked: Mapping[str, float], offered: Mapping[str, float]) -> bool:
    """Whether a node could ever give what is asked."""
    return all(offered.get(resource, 0.0) >= amount for resource, amount in asked.items() if amount > 0)


def label(roster: Roster, task: Task) -> str:
    """``task train`` or ``actor Learner``."""
    if task.kind == "group":
        return task.name
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
