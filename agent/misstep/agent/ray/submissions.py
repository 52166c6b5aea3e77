"""Status of submitted jobs: from the dashboard's ``/api/jobs/`` or from Ray's export file, in one shape.

Ray 2.60 declares events for submissions and emits none; a job whose entrypoint dies before it connects is seen
here only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from misstep.agent.otlp import Value
from misstep.agent.ray.redaction import command, redacted
from misstep.agent.ray.shape import text
from misstep.agent.records import ERROR, INFO, Records
from misstep.core import names

STATES = ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
_MILLISECOND = 1_000_000


def add(job: Mapping[str, Any], out: Records, *, session: str, source: str, now: int) -> str:
    """Put a submission's status into `out`.

    Args:
        job: an element of ``/api/jobs/`` or the ``event_data`` of an EXPORT_SUBMISSION_JOB line.
        source: ``ray_api`` or ``ray_logs``.
        now: Unix nanoseconds, for states that carry no time of their own.

    Returns:
        The event's id, equal for equal states; empty when this is not a submission.
    """
    submission = str(job.get("submission_id") or job.get("submission_job_id") or "")
    state = str(job.get("status") or "")
    if not submission or state not in STATES:
        return ""
    job_id = str(job.get("job_id") or "")
    body = {
        "submissionId": submission, "jobId": job_id, "status": state,
        "message": text(str(job.get("message") or "")), "errorType": str(job.get("error_type") or ""),
        "driverExitCode": job.get("driver_exit_code"), "driverNodeId": str(job.get("driver_node_id") or ""),
        "driverPid": _number((job.get("driver_info") or {}).get("pid")),
        "entrypoint": text(command(str(job.get("entrypoint") or ""))),
        "startTimeMs": _number(job.get("start_time")), "endTimeMs": _number(job.get("end_time")),
        "metadata": redacted(dict(job.get("metadata") or {})),
    }  # fmt: skip
    event_id = hashlib.blake2b(
        f"{session}|{submission}|{state}|{job_id}".encode(), digest_size=16
    ).hexdigest()
    attributes: dict[str, Value] = {
        names.SOURCE: source, names.EVENT_ID: event_id, names.RAY_SUBMISSION: submission,
        names.RAY_ERROR_TYPE: str(job.get("error_type") or ""), names.RAY_JOB: job_id,
        names.JOB_ENTITY: f"job/{job_id}" if job_id else "",
    }  # fmt: skip
    if isinstance(job.get("driver_exit_code"), int):
        attributes[names.EXIT_CODE] = int(job["driver_exit_code"])
    if body["driverPid"]:
        attributes[names.PID] = _number(body["driverPid"])
    stated = {"PENDING": body["startTimeMs"]}.get(state, body["endTimeMs"])
    out.event(
        "ray.submission", entity=f"job/{job_id or submission}", session=session, state=state,
        body=json.dumps(body, separators=(",", ":"), ensure_ascii=False),
        time=_number(stated) * _MILLISECOND or now, severity=ERROR if state == "FAILED" else INFO,
        attributes=attributes,
    )  # fmt: skip
    return event_id


def from_export(line: bytes) -> tuple[dict[str, Any], int] | None:
    """A line of ``export_events/event_EXPORT_SUBMISSION_JOB.log`` as (submission, Unix nanoseconds)."""
    try:
        held = json.loads(line)
        if held["source_type"] != "EXPORT_SUBMISSION_JOB":
            return None
        return dict(held["event_data"]), int(held["timestamp"]) * 1_000_000_000
    except (ValueError, KeyError, TypeError):
        return None


def _number(value: object) -> int:
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return 0
