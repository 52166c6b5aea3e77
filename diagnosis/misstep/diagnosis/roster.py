"""Who is who in a session: tasks, actors, workers, nodes and drivers, looked up only when asked about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from misstep.core import names
from misstep.diagnosis.traceback import Frame, is_user_file, parse_frames
from misstep.diagnosis.window import Window, entity_id, transitions
from misstep.store.rows import LogRow

_DEFINITIONS = ("ray.task.definition", "ray.actor_task.definition")
NO_TASK = "f" * 48


class Task(NamedTuple):
    """A task or a call of an actor's method.

    Attributes:
        name: ``tokenize``, or ``Encoder.run`` for a method.
        kind: ``task``, ``method``, ``creation`` or ``driver``.
        calls: where the user's code submitted it, innermost frame first; often unknown.
    """

    id: str
    name: str
    kind: str
    job: str
    actor: str
    class_name: str
    parent: str
    resources: dict[str, float]
    submitted: int
    calls: Frame | None
    row: LogRow | None


class Actor(NamedTuple):
    """An actor; `worker`, `node` and `pid` are those where it was seen alive last."""

    id: str
    class_name: str
    name: str
    job: str
    worker: str
    node: str
    pid: int
    resources: dict[str, float]
    row: LogRow | None


class Worker(NamedTuple):
    """A Ray worker process."""

    id: str
    pid: int
    node: str
    row: LogRow | None


class Node(NamedTuple):
    """A Ray node; `resources` is what it offers in total, `ended` when it died (0: it lives)."""

    id: str
    name: str
    ip: str
    host: str
    head: bool
    resources: dict[str, float]
    ended: int
    row: LogRow | None


class Job(NamedTuple):
    """A driver; `finished` is when it disconnected from Ray (0: not seen)."""

    id: str
    pid: int
    entrypoint: str
    submission: str
    started: int
    finished: int
    row: LogRow


class Roster:
    """Look-ups by id, each asked at most once in a tick."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._tasks: dict[str, Task | None] = {}
        self._actors: dict[str, Actor] = {}
        self._workers: dict[str, Worker] = {}
        self._nodes: dict[str, Node] | None = None
        self._jobs: list[Job] | None = None

    # -- tasks ----------------------------------------------------------------------------------

    def tasks(self, ids: Iterable[str]) -> dict[str, Task]:
        """Definitions of the tasks that have one."""
        ids = list(ids)
        wanted = sorted({id for id in ids if id and id not in self._tasks})
        for start in range(0, len(wanted), 200):
            part = wanted[start : start + 200]
            for id in part:
                self._tasks[id] = None
            for row in self.window.rows(*_DEFINITIONS, entities=[f"task/{id}" for id in part]):
                id = entity_id(row.entity)
                if self._tasks.get(id) is None:
                    self._tasks[id] = self.read_task(row)
        return {id: task for id in ids if (task := self._tasks.get(id)) is not None}

    def task(self, id: str) -> Task | None:
        """The definition of one task."""
        return self.tasks([id]).get(id)

    def read_task(self, row: LogRow) -> Task:
        """A definition as its event tells it."""
        body = self.window.body(row)
        method = row.event == "ray.actor_task.definition"
        function = (body.get("actorFunc" if method else "taskFunc") or {}).get(
            "pythonFunctionDescriptor"
        ) or {}
        class_name = str(function.get("className") or "")
        name = str(body.get("actorTaskName" if method else "taskName") or function.get("functionName") or "")
        kind = {"DRIVER_TASK": "driver", "ACTOR_CREATION_TASK": "creation", "ACTOR_TASK": "method"}.get(
            str(body.get("taskType", "")), "method" if method else "task"
        )
        return Task(
            id=entity_id(row.entity),
            name=name,
            kind=kind,
            job=str(body.get("jobId") or row.attributes.get(names.RAY_JOB, "")),
            actor=str(
                body.get("actorId") or (actor_of_task(entity_id(row.entity)) if kind != "task" else "")
            ),
            class_name=class_name,
            parent=str(body.get("parentTaskId") or ""),
            resources=_numbers(body.get("requiredResources")),
            submitted=row.ts,
            calls=_call_site(str(body.get("callSite") or "")),
            row=row,
        )

    def running_on(self, worker: str, pid: int, before: int) -> Task | None:
        """What a worker was given last before a moment."""
        rows: list[LogRow] = []
        if worker:
            rows += self.window.rows(
                "ray.task.lifecycle", attributes={names.RAY_WORKER: worker}, limit=200, newest=True
            )
        if pid:
            rows += self.window.rows(
                "ray.task.lifecycle", attributes={names.PID: str(pid)}, limit=200, newest=True
            )
        rows = [row for row in rows if row.ts <= before + 1_000_000_000]
        finished = {row.entity for row in rows if row.state == "FINISHED"}
        for row in sorted(rows, key=lambda row: (row.ts, row.entity), reverse=True):
            if row.entity not in finished:
                task = self.task(entity_id(row.entity))
                if task is not None and task.kind != "driver":
                    return task
        return None

    # -- actors, workers ------------------------------------------------------------------------

    def actor(self, id: str) -> Actor:
        """An actor, as far as it is known."""
        known = self._actors.get(id)
        if known is not None:
            return known
        class_name = name = job = worker = node = ""
        pid = 0
        row: LogRow | None = None
        for row in self.window.rows("ray.actor.definition", entities=[f"actor/{id}"]):
            body = self.window.body(row)
            class_name, name = str(body.get("className") or ""), str(body.get("name") or "")
            job = str(body.get("jobId") or "")
        for life in self.window.rows("ray.actor.lifecycle", entities=[f"actor/{id}"]):
            for entry in transitions(self.window.body(life)):
                if entry.get("state") == "ALIVE":
                    worker, node = str(entry.get("workerId") or ""), str(entry.get("nodeId") or "")
                    pid = int(entry.get("pid") or 0)
                context = (entry.get("deathCause") or {}).get("actorDiedErrorContext") or {}
                class_name = class_name or str(context.get("className") or "")
                pid = pid or int(context.get("pid") or 0)
        creation = self.task(creation_task(id))
        resources = creation.resources if creation else {}
        class_name = class_name or (creation.class_name if creation else "")
        actor = Actor(
            id, class_name.rsplit(".", 1)[-1], name, job or id[-8:], worker, node, pid, resources, row
        )
        self._actors[id] = actor
        return actor

    def actor_on(self, worker: str) -> str:
        """The id of the actor that lived on a worker, or empty."""
        for row in self.window.rows("ray.actor.lifecycle", contains=(worker,), limit=20):
            return entity_id(row.entity)
        return ""

    def worker(self, id: str) -> Worker:
        """A worker, as far as it is known."""
        known = self._workers.get(id)
        if known is None:
            known = Worker(id, 0, "", None)
            for row in self.window.rows("ray.worker.definition", entities=[f"ray_worker/{id}"]):
                body = self.window.body(row)
                known = Worker(id, int(body.get("pid") or 0), str(body.get("nodeId") or ""), row)
            self._workers[id] = known
        return known

    def worker_of(self, pid: int, at: int) -> Worker | None:
        """The worker that a process was at a moment; pids are reused, so the newest definition before it counts."""
        if not pid:
            return None
        found: Worker | None = None
        for row in self.window.rows("ray.worker.definition", attributes={names.PID: str(pid)}):
            if row.ts <= at + 1_000_000_000 or found is None:
                found = self.worker(entity_id(row.entity))
        return found

    # -- nodes, jobs ----------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[str, Node]:
        """Every node that was seen, by id."""
        if self._nodes is None:
            found: dict[str, Node] = {}
            for row in self.window.rows("ray.node.definition"):
                body = self.window.body(row)
                id, ip = entity_id(row.entity), str(body.get("nodeIpAddress") or "")
                name, host = str(body.get("nodeName") or ""), str(body.get("hostname") or "")
                found[id] = Node(id, name if name != ip else "", ip, host, False, {}, 0, row)
            for row in self.window.rows("ray.node.lifecycle"):
                id = entity_id(row.entity)
                node = found.get(id) or Node(
                    id, row.attributes.get(names.RAY_NODE_NAME, ""), "", "", False, {}, 0, row
                )
                for entry in transitions(self.window.body(row)):
                    if entry.get("state") == "DEAD":
                        node = node._replace(ended=row.ts)
                    elif entry.get("resources"):
                        resources = _numbers(entry["resources"])
                        node = node._replace(resources=resources, head="node:__internal_head__" in resources)
                found[id] = node
            self._nodes = _named(found)
        return self._nodes

    def node_name(self, id: str) -> str:
        """How a person calls a node."""
        node = self.nodes.get(id)
        return node.name if node else f"node {id[:8]}" if id else ""

    @property
    def jobs(self) -> list[Job]:
        """Every driver that connected, oldest first."""
        if self._jobs is None:
            finished = {
                row.entity: row.ts for row in self.window.rows("ray.job.lifecycle", states=("FINISHED",))
            }
            jobs = []
            for row in self.window.rows("ray.job.definition"):
                body = self.window.body(row)
                metadata = (body.get("config") or {}).get("metadata") or {}
                jobs.append(
                    Job(
                        id=entity_id(row.entity),
                        pid=int(body.get("driverPid") or row.attributes.get(names.PID) or 0),
                        entrypoint=str(body.get("entrypoint") or ""),
                        submission=str(metadata.get("job_submission_id") or ""),
                        started=row.ts,
                        finished=finished.get(row.entity, 0),
                        row=row,
                    )
                )
            self._jobs = jobs
        return self._jobs


def actor_of_task(task: str) -> str:
    """The actor that a task's id holds: its last 16 bytes are the actor's id, of which 12 may be unset."""
    actor = task[16:]
    return "" if actor[:24] == "f" * 24 else actor


def creation_task(actor: str) -> str:
    """The id of the task that creates an actor."""
    return "f" * 16 + actor


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {str(key): float(number) for key, number in sorted(value.items()) if _is_number(number)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _call_site(text: str) -> Frame | None:
    for frame in parse_frames(text):
        if is_user_file(frame.file):
            return frame
    return None


def _named(nodes: dict[str, Node]) -> dict[str, Node]:
    """Give each node a name of its own: its own name, else its host's, with a piece of the id where two share it."""
    candidates = {id: node.name or node.host or node.ip or "node" for id, node in nodes.items()}
    shared = list(candidates.values())
    return {
        id: node._replace(name=name if shared.count(name) == 1 else f"{name} ({id[:8]})")
        for id, node in nodes.items()
        for name in [candidates[id]]
    }
