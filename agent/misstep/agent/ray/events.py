"""Ray's exported events → our records, one to one.

Ray 2.60 declares 17 types (events_base_event.proto); those that it does not emit yet are understood all the
same, and a type that we do not know is counted. Parts of one task attempt come from several processes in any
order, and one event can come up to eight times: the store puts together and removes copies by the event's id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from misstep.agent.otlp import Value
from misstep.agent.ray import shape
from misstep.agent.records import ERROR, INFO, WARNING, Records
from misstep.core import names
from misstep.core.identity import ray_session


class Kind(NamedTuple):
    """How an event type is read: key of its inner object, our event, kind of its subject and the subject's id field."""

    key: str
    event: str
    subject: str
    id: str


KINDS: Mapping[str, Kind] = {
    "TASK_DEFINITION_EVENT": Kind("taskDefinitionEvent", "ray.task.definition", "task", "taskId"),
    "TASK_LIFECYCLE_EVENT": Kind("taskLifecycleEvent", "ray.task.lifecycle", "task", "taskId"),
    "ACTOR_TASK_DEFINITION_EVENT": Kind("actorTaskDefinitionEvent", "ray.actor_task.definition", "task", "taskId"),
    "TASK_PROFILE_EVENT": Kind("taskProfileEvents", "ray.task.profile", "task", "taskId"),
    "DRIVER_JOB_DEFINITION_EVENT": Kind("driverJobDefinitionEvent", "ray.job.definition", "job", "jobId"),
    "DRIVER_JOB_LIFECYCLE_EVENT": Kind("driverJobLifecycleEvent", "ray.job.lifecycle", "job", "jobId"),
    "NODE_DEFINITION_EVENT": Kind("nodeDefinitionEvent", "ray.node.definition", "ray_node", "nodeId"),
    "NODE_LIFECYCLE_EVENT": Kind("nodeLifecycleEvent", "ray.node.lifecycle", "ray_node", "nodeId"),
    "ACTOR_DEFINITION_EVENT": Kind("actorDefinitionEvent", "ray.actor.definition", "actor", "actorId"),
    "ACTOR_LIFECYCLE_EVENT": Kind("actorLifecycleEvent", "ray.actor.lifecycle", "actor", "actorId"),
    "PLACEMENT_GROUP_DEFINITION_EVENT": Kind("placementGroupDefinitionEvent", "ray.placement_group.definition", "group", "placementGroupId"),
    "PLACEMENT_GROUP_LIFECYCLE_EVENT": Kind("placementGroupLifecycleEvent", "ray.placement_group", "group", "placementGroupId"),
    "SUBMISSION_JOB_DEFINITION_EVENT": Kind("submissionJobDefinitionEvent", "ray.submission.definition", "job", "submissionId"),
    "SUBMISSION_JOB_LIFECYCLE_EVENT": Kind("submissionJobLifecycleEvent", "ray.submission", "job", "submissionId"),
    "PLATFORM_EVENT": Kind("platformEvent", "ray.platform", "", ""),
    "WORKER_LIFECYCLE_EVENT": Kind("workerLifecycleEvent", "ray.worker.lifecycle", "ray_worker", "workerId"),
    "WORKER_DEFINITION_EVENT": Kind("workerDefinitionEvent", "ray.worker.definition", "ray_worker", "workerId"),
}  # fmt: skip

_SEVERITY = {"TRACE": 1, "DEBUG": 5, "INFO": INFO, "WARNING": WARNING, "ERROR": ERROR, "FATAL": 21}
_DEATHS = {
    "creationTaskFailureContext": "ACTOR_CREATION_FAILED",
    "runtimeEnvFailedContext": "RUNTIME_ENV_SETUP_FAILED",
    "actorDiedErrorContext": "ACTOR_DIED",
    "actorUnschedulableContext": "ACTOR_UNSCHEDULABLE_ERROR",
    "oomContext": "OUT_OF_MEMORY",
}
"""Which ErrorType of Ray an ActorDeathCause stands for."""

_NOBODY = "f" * 24
_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

Locate = Callable[[str, str, str, int], str]
"""(session, role, id of a Ray node, pid) → ``process/…`` when that process is on this machine, else empty.

A node's own definition says no pid: there the role is ``raylet`` and the pid 0."""


def nowhere(session: str, role: str, node: str, pid: int) -> str:
    """No process is known."""
    return ""


class Translator:
    """Turns the events of one cluster into records.

    Args:
        site: first part of the session's name.
        cluster: name from the URL to which Ray sends.
        locate: finds the process of a worker or driver.
    """

    def __init__(self, site: str, cluster: str, locate: Locate = nowhere) -> None:
        self._site = site
        self._cluster = cluster
        self._locate = locate
        self._sessions: dict[str, str] = {}

    def session(self, ray_name: str) -> str:
        """Our name for Ray's ``session_…``."""
        known = self._sessions.get(ray_name)
        if known is None:
            known = str(ray_session(self._site, self._cluster, ray_name)) if ray_name else ""
            if len(self._sessions) < 64:
                self._sessions[ray_name] = known
        return known

    def add(self, event: object, out: Records) -> bool:
        """Translate one decoded event into `out`; one that is not understood is counted there instead.

        Returns:
            Whether it was understood.
        """
        if not isinstance(event, dict):
            out.gap("event", 1, "Ray sent something that is not an event")
            return False
        snake = "event_type" in event
        name = str(event.get("event_type" if snake else "eventType") or "")
        kind = KINDS.get(name)
        if kind is None:
            out.gap("event", 1, f"unknown Ray event type {name[:60] or '(none)'}")
            return False
        inner = event.get(_snake(kind.key) if snake else kind.key)
        if not isinstance(inner, dict):
            out.gap("event", 1, f"Ray event {name} without its content")
            return False
        record(
            kind,
            shape.body(inner),
            out,
            session=self.session(str(event.get("session_name" if snake else "sessionName") or "")),
            source="ray_events",
            event_id=shape.identifier(event.get("event_id" if snake else "eventId")),
            time=shape.nanoseconds(event.get("timestamp")),
            severity=_SEVERITY.get(str(event.get("severity")), INFO),
            locate=self._locate,
        )
        return True


def record(
    kind: Kind,
    inner: dict[str, Any],
    out: Records,
    *,
    session: str,
    source: str,
    event_id: str,
    time: int,
    severity: int = INFO,
    locate: Locate = nowhere,
) -> None:
    """Put one event into `out`; the State API's answers take this way too.

    Args:
        inner: the typed object in our form (`shape.body`).
        source: ``ray_events`` or ``ray_api``.
        event_id: hex; a second record with the same id is a copy.
        time: Unix nanoseconds, used where there is no state transition.
    """
    attributes: dict[str, Value] = {names.SOURCE: source}
    if event_id:
        attributes[names.EVENT_ID] = event_id
    subject = str(inner.get(kind.id) or "") if kind.id else ""
    transitions = inner.get("stateTransitions")
    last = transitions[-1] if isinstance(transitions, list) and transitions else {}
    if not isinstance(last, dict):
        last = {}
    state = str(last.get("state") or "")
    _attribute(kind, inner, last, state, attributes)
    _place(kind, inner, attributes, session, locate)
    if _is_failure(kind, inner, last, state):
        severity = max(severity, ERROR)
    out.event(
        kind.event,
        entity=f"{kind.subject}/{subject}" if subject else "",
        session=session,
        state=state,
        body=_ENCODE(inner),
        time=shape.nanoseconds(last.get("timestamp")) or time,
        severity=severity,
        attributes=attributes,
    )


def actor_of(task: str) -> str:
    """The actor whose method or constructor a task is, from its id; empty for a normal task.

    A TaskID is 8 bytes of its own and the ActorID (12 bytes and the JobID); normal tasks have ff for the 12.
    """
    return task[16:] if len(task) == 48 and task[16:40] != _NOBODY else ""


def _attribute(
    kind: Kind,
    inner: dict[str, Any],
    last: dict[str, Any],
    state: str,
    held: dict[str, Value],
) -> None:
    worker = str(last.get("workerId") or inner.get("workerId") or "")
    node = str(last.get("nodeId") or inner.get("nodeId") or inner.get("driverNodeId") or "")
    job = str(inner.get("jobId") or inner.get("creatorJobId") or "")
    actor = str(inner.get("actorId") or "")
    pid = _number(last.get("pid") or inner.get("workerPid") or inner.get("driverPid") or inner.get("pid"))
    if kind.subject == "task":
        task = str(inner.get("taskId") or "")
        held[names.RAY_TASK] = task
        held[names.RAY_ATTEMPT] = _number(inner.get("taskAttempt") or inner.get("attemptNumber"))
        held[names.RAY_TASK_NAME] = str(inner.get("taskName") or inner.get("actorTaskName") or "")
        actor = actor or actor_of(task)
        error = inner.get("rayErrorInfo")
        if isinstance(error, dict) and error:
            held[names.RAY_ERROR_TYPE] = str(error.get("errorType") or "")
    elif kind.subject == "actor":
        held[names.RAY_ACTOR_CLASS] = _actor_class(inner, last)
        held[names.RAY_ERROR_TYPE] = _death(last.get("deathCause"))
    elif kind.subject == "ray_worker":
        death = last.get("deathInfo")
        if state == "DEAD" and isinstance(death, dict):
            held[names.RAY_EXIT_TYPE] = str(death.get("exitType") or "")
    elif kind.subject == "ray_node":
        held[names.RAY_NODE_NAME] = str(inner.get("nodeName") or "")
    elif kind.subject == "job":
        submission = _submission(inner)
        held[names.RAY_SUBMISSION] = submission
        held[names.RAY_ERROR_TYPE] = str(last.get("errorType") or "")
    for key, entity_key, prefix, id in (
        (names.RAY_WORKER, names.WORKER_ENTITY, "ray_worker/", worker),
        (names.RAY_NODE, names.NODE_ENTITY, "ray_node/", node),
        (names.RAY_JOB, names.JOB_ENTITY, "job/", job),
        (names.RAY_ACTOR, names.ACTOR_ENTITY, "actor/", actor),
    ):
        if id:
            held[key] = id
            held[entity_key] = prefix + id
    if pid:
        held[names.PID] = pid


def _place(kind: Kind, inner: dict[str, Any], held: dict[str, Value], session: str, locate: Locate) -> None:
    """Say which process a worker, driver or node is; once, where Ray declares it."""
    if kind.event == "ray.worker.definition":
        role = "ray_driver" if inner.get("workerType") == "DRIVER" else "ray_worker"
    elif kind.event == "ray.job.definition":
        role = "ray_driver"
    elif kind.event == "ray.node.definition":
        role = "raylet"
    else:
        return
    node, pid = held.get(names.RAY_NODE), held.get(names.PID, 0)
    if isinstance(node, str) and isinstance(pid, int):
        process = locate(session, role, node, pid)
        if process:
            held[names.PROCESS_ENTITY] = process


def _submission(inner: dict[str, Any]) -> str:
    metadata = (inner.get("config") or {}).get("metadata") or {}
    return str(inner.get("submissionId") or metadata.get("job_submission_id") or "")


def _actor_class(inner: dict[str, Any], last: dict[str, Any]) -> str:
    context = (last.get("deathCause") or {}).get("actorDiedErrorContext") or {}
    return str(inner.get("className") or context.get("className") or "")


def _death(cause: object) -> str:
    if not isinstance(cause, dict):
        return ""
    return next((name for key, name in _DEATHS.items() if key in cause), "")


def _is_failure(kind: Kind, inner: dict[str, Any], last: dict[str, Any], state: str) -> bool:
    """Whether Ray itself calls this a failure; what it means is for others to say."""
    if kind.subject == "ray_worker":
        exit_type = str((last.get("deathInfo") or {}).get("exitType") or "")
        return state == "DEAD" and not exit_type.startswith("INTENDED")
    if kind.subject == "ray_node":
        reason = str((last.get("deathInfo") or {}).get("reason") or "")
        return state == "DEAD" and reason.startswith("UNEXPECTED")
    if kind.subject == "actor":
        return _death(last.get("deathCause")) not in ("", "ACTOR_DIED")
    return state == "FAILED" or bool(inner.get("rayErrorInfo"))


def _number(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return 0


def _snake(key: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in key)
