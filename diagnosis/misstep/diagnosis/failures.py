"""What one failure is by nature, whether Ray's events or a driver's last words tell of it.

The same fault is told several times: by the task's event, by the callers' events, by the driver's
exception. `classify` gives each telling the same links, by which they come together in one case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from misstep.diagnosis.raytext import (
    actor_death,
    end_signal,
    exit_code,
    intended,
    memory_kill,
    node_id,
    without_guesses,
)
from misstep.diagnosis.traceback import RAY_ERRORS, Raised, parse, plain

_OWNER = re.compile(r"Owner worker ID: ([0-9a-f]{56})")
_OBJECT = re.compile(r"object (?:ref )?([0-9a-f]{56})", re.IGNORECASE)
_NO_ENVIRONMENT = "Failed to set up runtime environment."
_SYSTEM = "\nSystem error:\n"
_TAILS = (
    "ray stop --force was called",
    "Worker exit detail:",
    "documentation on how to address the out of memory issue",
    "Check python-core-worker-*.log",
    "Owner worker ID:",
)
_ENVIRONMENT_OF = re.compile(r"lease_id=[0-9a-f]+, name=([^,\s]+)")

_BY_CLASS = {
    "ActorDiedError": "ACTOR_DIED", "RayActorError": "ACTOR_DIED", "ActorUnavailableError": "ACTOR_UNAVAILABLE",
    "WorkerCrashedError": "WORKER_DIED", "OutOfMemoryError": "OUT_OF_MEMORY", "NodeDiedError": "NODE_DIED",
    "LocalRayletDiedError": "LOCAL_RAYLET_DIED", "OwnerDiedError": "OWNER_DIED", "ObjectLostError": "OBJECT_LOST",
    "ObjectReconstructionFailedError": "OBJECT_LOST", "ObjectFetchTimedOutError": "OBJECT_LOST", "ObjectFreedError": "OBJECT_FREED",
    "ReferenceCountingAssertionError": "OBJECT_LOST", "ObjectReconstructionFailedMaxAttemptsExceededError": "OBJECT_LOST",
    "ObjectReconstructionFailedLineageEvictedError": "OBJECT_LOST", "RuntimeEnvSetupError": "RUNTIME_ENV_SETUP_FAILED",
    "TaskUnschedulableError": "TASK_UNSCHEDULABLE_ERROR", "ActorUnschedulableError": "ACTOR_UNSCHEDULABLE_ERROR",
    "TaskCancelledError": "TASK_CANCELLED", "OutOfDiskError": "OUT_OF_DISK_ERROR", "GetTimeoutError": "GET_TIMEOUT",
    "RaySystemError": "SYSTEM_ERROR", "ObjectStoreFullError": "OUT_OF_OBJECT_STORE",
}  # fmt: skip

SILENT = frozenset(
    {
        "TASK_CANCELLED",
        "ACTOR_UNAVAILABLE",
        "OBJECT_FREED",
        "DEPENDENCY_RESOLUTION_FAILED",
        "OBJECT_DELETED",
        "GET_TIMEOUT",
    }
)
"""Failures that somebody wanted, or that only say that something else failed."""


class Failure(NamedTuple):
    """The nature of a failure.

    Attributes:
        kind: of the observation; empty if the failure tells of no fault.
        links: what it shares with other tellings.
        facts: what the text told.
        raised: the section of the text in which it began.
    """

    kind: str
    links: frozenset[str]
    facts: Mapping[str, Any]
    raised: Raised | None


def error_type(raised: Raised) -> str:
    """Ray's name for what an exception's class says."""
    return _BY_CLASS.get(raised.type, "TASK_EXECUTION_EXCEPTION")


def classify(
    kind: str,
    text: str,
    *,
    task: str = "",
    function: str = "",
    worker: str = "",
    actor: str = "",
    node: str = "",
) -> Failure:
    """Say what a failure is.

    Args:
        kind: Ray's error type, for example ``WORKER_DIED``.
        text: its message.
        task, function, worker, actor, node: whom it befell, as far as that is known; ids in hex.
    """
    text = plain(text).removeprefix("User exception:\n").partition(_SYSTEM)[0]
    chain = parse(text)
    raised = chain[-1] if chain else None
    if any(section.type == "RuntimeEnvSetupError" for section in chain):
        kind = "RUNTIME_ENV_SETUP_FAILED"
    if kind == "TASK_EXECUTION_EXCEPTION":
        if raised is not None and raised.type in RAY_ERRORS:
            kind = error_type(raised)
            task = worker = actor = node = ""  # they name the caller, not the one that it waited for
            function = raised.function if kind in ("WORKER_DIED", "OUT_OF_MEMORY") else ""
        elif "object's owner has exited" in text:
            kind, worker = "OWNER_DIED", ""
        elif (raised is None or not raised.frames) and any(tail in text for tail in _TAILS):
            return Failure(
                "", frozenset(), {}, raised
            )  # the end of a longer text about somebody else's death
    if kind in ("ACTOR_DIED", "ACTOR_CREATION_FAILED") and (
        "error raised in its creation task" in text or kind == "ACTOR_CREATION_FAILED"
    ):
        return _raised(text, raised, function=function, actor=actor, creation=True)
    if kind == "TASK_EXECUTION_EXCEPTION":
        return _raised(
            text,
            raised,
            function=function,
            actor=actor,
            creation="init method" in text or function.endswith(".__init__"),
        )
    return _system(kind, text, raised, task=task, function=function, worker=worker, actor=actor, node=node)


def _raised(text: str, raised: Raised | None, *, function: str, actor: str, creation: bool) -> Failure:
    if raised is None:
        line = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        raised = Raised(type="", message=line.strip()[:300])
    frame = raised.user_frame
    actor = raised.actor or (actor if creation else "")
    links = {f"raise/{raised.signature}" if raised.signature else f"raise/{function}/{raised.type}"}
    if creation and actor:
        links.add(f"actor/{actor}")
    facts = {
        "type": raised.type,
        "message": raised.message,
        "file": frame.file if frame else "",
        "line": frame.line if frame else 0,
        "path": frame.path if frame else "",
        "place": frame.place if frame else "",
        "in": frame.function if frame else "",
        "function": raised.function or function,
        "pid": raised.pid,
        "ip": raised.ip,
        "actor": actor or raised.actor,
        "creation": creation,
        "sure": bool(raised.function),
        "behind": raised.behind,
    }
    return Failure("task.raised", frozenset(links), facts, raised)


def _system(
    kind: str,
    text: str,
    raised: Raised | None,
    *,
    task: str,
    function: str,
    worker: str,
    actor: str,
    node: str,
) -> Failure:
    links: set[str] = set()
    facts: dict[str, Any] = {
        "error": kind,
        "function": function,
        "task": task,
        "worker": worker,
        "actor": actor,
        "node": node,
    }
    if kind == "OUT_OF_MEMORY":
        kill = memory_kill(text)
        links |= {f"task/{task}"} if task else set()
        if kill is not None:
            links |= {f"memory/{kill.mark}"} | {f"ray_worker/{victim.worker}" for victim in kill.victims}
            facts["kill"] = kill
        return Failure("task.out_of_memory", frozenset(links), facts, raised)
    if kind == "ACTOR_DIED":
        death = actor_death(text)
        if "node has died" in text or "NODE_DIED" in text:
            return Failure(
                "task.lost_node",
                frozenset({f"ray_node/{node_id(text) or node}"}),
                facts | {"node": node_id(text) or node},
                raised,
            )
        code = exit_code(death.detail) if death else None
        facts |= (
            {
                "class": death.class_name,
                "pid": death.pid,
                "ip": death.ip,
                "detail": death.detail,
                "code": None if end_signal(death.detail) else code,
                "signal": end_signal(death.detail),
            }
            if death
            else {}
        )
        actor = death.actor if death and death.actor else actor
        facts["actor"] = actor
        if deliberate_end(death.exit_type if death else "", text, code):
            return Failure("", frozenset(), facts, raised)
        return Failure("task.lost_actor", frozenset({f"actor/{actor}"} if actor else ()), facts, raised)
    if kind == "WORKER_DIED":
        links |= {f"task/{task}"} if task else set()
        links |= {f"ray_worker/{worker}"} if worker else set()
        links |= (
            {f"actor/{actor}"} if actor else set()
        )  # its creation: the worker of a restart may be unknown
        signal = end_signal(text)
        facts |= {
            "code": None if signal else exit_code(text),
            "signal": signal,
            "detail": without_guesses(text)[:300],
        }
        return Failure("task.lost_worker", frozenset(links), facts, raised)
    if kind in ("NODE_DIED", "LOCAL_RAYLET_DIED"):
        node = node_id(text) or node
        return Failure(
            "task.lost_node", frozenset({f"ray_node/{node}"} if node else ()), facts | {"node": node}, raised
        )
    if kind == "OWNER_DIED" or kind.startswith(("OBJECT_LOST", "OBJECT_UNRECONSTRUCTABLE", "OBJECT_FETCH")):
        owner, lost = _OWNER.search(text), _OBJECT.search(text)
        facts |= {
            "owner": owner[1] if owner else "",
            "object": lost[1] if lost else "",
            "message": _headline(text),
        }
        if owner and kind == "OWNER_DIED":
            links.add(f"ray_worker/{owner[1]}")
        elif lost:
            links.add(f"object/{lost[1]}")
        return Failure("task.lost_object", frozenset(links), facts, raised)
    if kind == "RUNTIME_ENV_SETUP_FAILED":
        named = _ENVIRONMENT_OF.search(text)
        facts["function"] = function or (named[1] if named else "")
        # A driver's traceback and Ray's event end in the same text; what stands before it differs.
        chain = parse(text.rpartition(_NO_ENVIRONMENT)[2])
        raised = chain[-1] if chain and chain[-1].frames else raised
        reason = (
            f"{raised.type}: {raised.message}".rstrip(": ")
            if raised is not None and raised.frames
            else _last_line(text)
        )
        links |= {f"environment/{blake2b(reason.encode(), digest_size=6).hexdigest()}"}
        links |= {f"actor/{actor}"} if actor else set()
        return Failure("task.no_environment", frozenset(links), facts | {"reason": reason}, raised)
    if kind.endswith("UNSCHEDULABLE_ERROR"):
        return Failure(
            "task.unschedulable",
            frozenset({f"waits/{function}"}),
            facts | {"reason": _headline(text)},
            raised,
        )
    if kind in SILENT:
        return Failure("", frozenset(), facts, raised)
    facts["reason"] = _headline(text)
    return Failure("task.failed", frozenset({f"failed/{function}/{kind}"}), facts, raised)


def deliberate_end(exit_type: str, text: str, code: int | None) -> bool:
    """Whether an actor or worker ended because somebody wanted it to."""
    if "ray.kill" in text or "all references" in text or "out of scope" in text.lower():
        return True
    return intended(exit_type) and not code


def _headline(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:300]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:300]
