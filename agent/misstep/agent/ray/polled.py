"""Answers of Ray's State API → the same events that its event stream would have sent.

For clusters without the stream: one shape for whoever reads. An event's id is made of what it says, so the same
state asked twice is one event.
"""

from __future__ import annotations

import hashlib
import time as clock
from collections.abc import Mapping
from typing import Any

from misstep.agent.ray import events
from misstep.agent.ray.redaction import runtime_environment
from misstep.agent.ray.shape import text
from misstep.agent.records import Records

_MILLISECOND = 1_000_000
_UNSET = 1 << 62
_KINDS = {kind.event: kind for kind in events.KINDS.values()}
_SEEN = 50_000


class Polled:
    """Remembers what was told of one session, and tells what is new.

    Args:
        session: ours.
        locate: finds the process of a worker or driver.
    """

    def __init__(self, session: str, locate: events.Locate = events.nowhere) -> None:
        self._session = session
        self._locate = locate
        self._seen: dict[str, None] = {}

    def task(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """A row of ``/api/v0/tasks?detail=1``."""
        task, attempt = _text(row, "task_id"), int(row.get("attempt_number") or 0)
        job = _text(row, "job_id")
        function = _text(row, "func_or_class_name")
        resources = row.get("required_resources") or {}
        environment = runtime_environment(_text(row.get("runtime_env_info") or {}, "serialized_runtime_env"))
        made = _time(row.get("creation_time_ms")) or now
        common = {"taskId": task, "taskAttempt": attempt, "jobId": job}
        if row.get("type") == "ACTOR_TASK":
            self._tell("ray.actor_task.definition", common | {
                "actorFunc": {"pythonFunctionDescriptor": {"functionName": function}}, "actorTaskName": _text(row, "name"),
                "actorId": _text(row, "actor_id"), "parentTaskId": _text(row, "parent_task_id"),
                "requiredResources": resources, "serializedRuntimeEnv": environment, "callSite": text(_text(row, "call_site")),
            }, out, made, key=(task, attempt))  # fmt: skip
        else:
            self._tell("ray.task.definition", common | {
                "taskType": _text(row, "type"), "taskFunc": {"pythonFunctionDescriptor": {"functionName": function}},
                "taskName": _text(row, "name"), "parentTaskId": _text(row, "parent_task_id"),
                "placementGroupId": _text(row, "placement_group_id"), "requiredResources": resources,
                "serializedRuntimeEnv": environment, "callSite": text(_text(row, "call_site")),
            }, out, made, key=(task, attempt))  # fmt: skip
        transitions = [
            {"state": str(event.get("state")), "timestamp": _stamp(_time(event.get("created_ms")))}
            for event in row.get("events") or []
            if isinstance(event, dict)
        ]
        state = _text(row, "state")
        if not transitions or transitions[-1]["state"] != state:
            transitions.append({"state": state, "timestamp": _stamp(_time(row.get("end_time_ms")) or now)})
        body = common | {
            "stateTransitions": transitions, "nodeId": _text(row, "node_id"), "workerId": _text(row, "worker_id"),
            "workerPid": int(row.get("worker_pid") or 0),
        }  # fmt: skip
        if row.get("error_type"):
            body["rayErrorInfo"] = {
                "errorType": _text(row, "error_type"),
                "errorMessage": text(_text(row, "error_message")),
            }
        if row.get("task_log_info"):
            body["taskLogInfo"] = {_camel(key): value for key, value in row["task_log_info"].items()}
        self._tell("ray.task.lifecycle", body, out, now, key=(task, attempt, state, body["workerId"]))

    def worker(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """A row of ``/api/v0/workers?detail=1``."""
        worker = _text(row, "worker_id")
        started = _time(row.get("start_time_ms")) or now
        self._tell("ray.worker.definition", {
            "workerId": worker, "nodeId": _text(row, "node_id"), "workerType": _text(row, "worker_type"), "pid": int(row.get("pid") or 0),
        }, out, started, key=(worker,))  # fmt: skip
        if row.get("is_alive"):
            last: dict[str, Any] = {"state": "ALIVE", "timestamp": _stamp(started)}
        else:
            last = {"state": "DEAD", "timestamp": _stamp(_time(row.get("end_time_ms")) or now), "deathInfo": {
                "exitType": _text(row, "exit_type"), "exitDetail": text(_text(row, "exit_detail")),
            }}  # fmt: skip
        body = {"workerId": worker, "nodeId": _text(row, "node_id"), "stateTransitions": [last]}
        self._tell("ray.worker.lifecycle", body, out, now, key=(worker, last["state"]))

    def node(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """A row of ``/api/v0/nodes?detail=1``."""
        node, state = _text(row, "node_id"), _text(row, "state")
        started = _time(row.get("start_time_ms")) or now
        self._tell("ray.node.definition", {
            "nodeId": node, "nodeIpAddress": _text(row, "node_ip"), "labels": row.get("labels") or {},
            "nodeName": _text(row, "node_name"), "startTimestamp": _stamp(started),
        }, out, started, key=(node,))  # fmt: skip
        at = _time(row.get("end_time_ms")) if state == "DEAD" else started
        last: dict[str, Any] = {
            "state": state,
            "timestamp": _stamp(at or now),
            "resources": row.get("resources_total") or {},
        }
        if state == "DEAD":
            message = _text(row, "state_message")
            expected = message.lower().startswith("expected")
            last["deathInfo"] = {
                "reason": "EXPECTED_TERMINATION" if expected else "UNEXPECTED_TERMINATION", "reasonMessage": text(message),
            }  # fmt: skip
        self._tell(
            "ray.node.lifecycle", {"nodeId": node, "stateTransitions": [last]}, out, now, key=(node, state)
        )

    def actor(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """A row of ``/api/v0/actors?detail=1``. It carries no times; a state is dated when it was first seen."""
        actor, state = _text(row, "actor_id"), _text(row, "state")
        self._tell("ray.actor.definition", {
            "actorId": actor, "jobId": _text(row, "job_id"), "name": _text(row, "name"), "className": _text(row, "class_name"),
            "isDetached": bool(row.get("is_detached")), "rayNamespace": _text(row, "ray_namespace"),
            "requiredResources": row.get("required_resources") or {}, "callSite": text(_text(row, "call_site")),
            "serializedRuntimeEnv": runtime_environment(_text(row, "serialized_runtime_env")),
        }, out, now, key=(actor,))  # fmt: skip
        last: dict[str, Any] = {
            "state": state, "timestamp": _stamp(now), "nodeId": _text(row, "node_id"), "pid": int(row.get("pid") or 0),
            "reprName": _text(row, "repr_name"),
        }  # fmt: skip
        cause = row.get("death_cause")
        if isinstance(cause, dict) and cause:
            last["deathCause"] = _cause(cause)
        body = {
            "actorId": actor,
            "jobId": _text(row, "job_id"),
            "className": _text(row, "class_name"),
            "stateTransitions": [last],
        }
        self._tell(
            "ray.actor.lifecycle", body, out, now, key=(actor, state, row.get("num_restarts"), last["pid"])
        )

    def job(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """An element of ``/api/jobs/`` whose driver has connected."""
        job, driver = _text(row, "job_id"), row.get("driver_info") or {}
        if not job:
            return
        started = _time(row.get("start_time")) or now
        submission = _text(row, "submission_id")
        self._tell("ray.job.definition", {
            "jobId": job, "driverPid": int(driver.get("pid") or 0), "driverNodeId": _text(row, "driver_node_id"),
            "entrypoint": text(_text(row, "entrypoint")),
            "config": {"metadata": {"job_submission_id": submission} if submission else {}},
        }, out, started, key=(job,))  # fmt: skip
        transitions = [{"state": "CREATED", "timestamp": _stamp(started)}]
        ended = _time(row.get("end_time"))
        if ended:
            transitions.append({"state": "FINISHED", "timestamp": _stamp(ended)})
        self._tell(
            "ray.job.lifecycle",
            {"jobId": job, "stateTransitions": transitions},
            out,
            now,
            key=(job, len(transitions)),
        )

    def group(self, row: Mapping[str, Any], out: Records, now: int) -> None:
        """A row of ``/api/v0/placement_groups?detail=1``; Ray 2.60 sends no events of them."""
        group, stats = _text(row, "placement_group_id"), row.get("stats") or {}
        made = int(stats.get("creation_request_received_ns") or 0) or now
        bundles = [
            {
                "bundleIndex": (bundle.get("bundle_id") or {}).get("bundle_index"),
                "unitResources": bundle.get("unit_resources") or {},
            }
            for bundle in row.get("bundles") or []
            if isinstance(bundle, dict)
        ]
        self._tell("ray.placement_group.definition", {
            "placementGroupId": group, "name": _text(row, "name"), "creatorJobId": _text(row, "creator_job_id"), "bundles": bundles,
        }, out, made, key=(group,))  # fmt: skip
        state, scheduling = _text(row, "state"), str(stats.get("scheduling_state") or "")
        last = {
            "state": state,
            "timestamp": _stamp(made if state == "PENDING" else now),
            "schedulingState": scheduling,
        }
        body = {
            "placementGroupId": group,
            "creatorJobId": _text(row, "creator_job_id"),
            "stateTransitions": [last],
        }
        self._tell("ray.placement_group", body, out, now, key=(group, state, scheduling))

    def _tell(
        self, event: str, body: dict[str, Any], out: Records, time: int, key: tuple[object, ...]
    ) -> None:
        told = "|".join([self._session, event, *map(str, key)])
        event_id = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        if event_id in self._seen:
            return
        self._seen[event_id] = None
        if len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]
        events.record(
            _KINDS[event],
            body,
            out,
            session=self._session,
            source="ray_api",
            event_id=event_id,
            time=time,
            locate=self._locate,
        )


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _time(milliseconds: object) -> int:
    """Unix nanoseconds; Ray writes 0, -1 or 2**64-1 where it knows none."""
    try:
        number = int(milliseconds)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return 0
    return number * _MILLISECOND if 0 < number < _UNSET // _MILLISECOND else 0


def _stamp(time: int) -> str:
    whole, fraction = divmod(time, 1_000_000_000)
    return f"{clock.strftime('%Y-%m-%dT%H:%M:%S', clock.gmtime(whole))}.{fraction:09d}Z"


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(part.title() for part in rest)


def _cause(cause: Mapping[str, Any]) -> dict[str, Any]:
    """A death cause as protobuf's JSON has it; the State API gives it in snake_case and its ids as hex or base64."""
    held: dict[str, Any] = {}
    for key, value in cause.items():
        if key == "serialized_exception":
            continue
        held[_camel(key)] = (
            _cause(value) if isinstance(value, dict) else text(value) if isinstance(value, str) else value
        )
    return held
