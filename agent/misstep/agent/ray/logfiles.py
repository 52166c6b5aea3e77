"""Which files in a Ray session's logs folder are read, whose they are, and what their lines say.

Names and formats of Ray 2.60. The job in a worker's file name can be ``ffffffff``: workers start before they
know it, and say it later in marker lines (``:job_id:``, ``:task_name:``, ``:actor_name:``) that they write into the file.
"""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple

from misstep.agent.records import ERROR, FATAL, INFO, WARNING
from misstep.core import names

ALL, WORSE, EVENTS, SUBMISSIONS = "all", "worse", "events", "submissions"
"""Take every line; only warnings, errors and what reads like the end of a process; JSON events; the export of job status."""

_WORKER = re.compile(r"worker-([0-9a-f]{56})-([0-9a-f]{8})-(\d+)\.(?:out|err)")
_CORE = re.compile(r"python-core-(worker|driver|spill_worker|restore_worker)-([0-9a-f]{56})_(\d+)\.log")
_DRIVER = re.compile(r"job-driver-(.+)\.log")
_EVENT = re.compile(r"events/event_(RAYLET|GCS|AUTOSCALER|JOBS|CORE_WORKER_\d+)\.log")
_PLAIN = {
    "raylet.out": WORSE, "gcs_server.out": WORSE, "raylet.err": ALL, "gcs_server.err": ALL,
    "monitor.err": ALL, "runtime_env_agent.log": WORSE,
    "export_events/event_EXPORT_SUBMISSION_JOB.log": SUBMISSIONS,
}  # fmt: skip
_SETUP = re.compile(r"runtime_env_setup-[0-9a-f]+\.log")

_CPP = re.compile(rb"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([DIWEFC]) \d+ \d+\]")
_PYTHON = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3})\s+(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_TELLING = re.compile(
    rb"(?i)\boom\b|out of memory|low on memory|memory usage .* exceeded|kill(?:ed|ing) worker|infeasible|unexpectedly|SIG[A-Z]{3,5}\b"
)
_LETTERS = {
    b"D": 5, b"I": INFO, b"W": WARNING, b"E": ERROR, b"F": FATAL, b"C": FATAL,
}  # fmt: skip
_EVENT_LEVELS = {
    "DEBUG": 5,
    "INFO": INFO,
    "WARNING": WARNING,
    "ERROR": ERROR,
    "FATAL": FATAL,
    "CRITICAL": FATAL,
}
_SECONDS: dict[bytes, int] = {}


class LogFile(NamedTuple):
    """What a name says: how to read the file, and the ids that its lines belong to."""

    take: str
    attributes: dict[str, str | int]


class Level(NamedTuple):
    """Severity and time of a line; 0 where the line does not say."""

    severity: int
    time: int


UNKNOWN = Level(0, 0)


def classify(path: str) -> LogFile | None:
    """How to read a file of the logs folder, by its path in there; None for those that are left alone."""
    match = _WORKER.fullmatch(path)
    if match:
        worker, job, pid = match.groups()
        return LogFile(ALL, {names.RAY_WORKER: worker, names.PID: int(pid)} | _job(job))
    match = _CORE.fullmatch(path)
    if match:
        role, worker, pid = match.groups()
        job = worker[:8] if role == "driver" else ""
        return LogFile(WORSE, {names.RAY_WORKER: worker, names.PID: int(pid)} | _job(job))
    match = _DRIVER.fullmatch(path)
    if match:
        return LogFile(ALL, {names.RAY_SUBMISSION: match.group(1)})
    if _EVENT.fullmatch(path):
        return LogFile(EVENTS, {})
    if _SETUP.fullmatch(path):
        return LogFile(WORSE, {})
    take = _PLAIN.get(path)
    return LogFile(take, {}) if take else None


def _job(job: str) -> dict[str, str | int]:
    return {names.RAY_JOB: job} if job.strip("f") else {}


def marker(line: bytes) -> tuple[str, str] | None:
    """(``task_name``, name) of a marker line; None for a line of the user's."""
    if not line.startswith(b":"):
        return None
    for key in ("task_name", "actor_name", "job_id"):
        if line.startswith(b":" + key.encode() + b":"):
            return key, line[len(key) + 2 :].decode("utf-8", "replace").strip()
    return None


def level(line: bytes) -> Level:
    """What a line of Ray's own logs says of its severity and time; Ray writes local time without a zone."""
    match = _CPP.match(line)
    if match:
        return Level(_LETTERS[match.group(3)], _local(match.group(1), match.group(2)))
    match = _PYTHON.match(line)
    if match:
        return Level(_EVENT_LEVELS[match.group(3).decode()], _local(match.group(1), match.group(2)))
    if line.startswith(b'{"asctime"'):  # RAY_BACKEND_LOG_JSON=1
        try:
            held = json.loads(line)
            date, _, milliseconds = str(held["asctime"]).partition(",")
            severity = _LETTERS.get(str(held.get("levelname"))[:1].encode(), 0)
            return Level(severity, _local(date.encode(), milliseconds.encode()))
        except (ValueError, KeyError, TypeError):
            return UNKNOWN
    return UNKNOWN


def event_level(line: bytes) -> Level:
    """The same for a line of ``events/event_*.log``: C++ writes its timestamp as a number, Python as text."""
    try:
        held = json.loads(line)
        return Level(
            _EVENT_LEVELS.get(str(held.get("severity")), INFO), int(held["timestamp"]) * 1_000_000_000
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return UNKNOWN


def is_telling(line: bytes) -> bool:
    """Whether a line that Ray calls informational speaks of the end of a process or of missing resources."""
    return _TELLING.search(line) is not None


def _local(second: bytes, milliseconds: bytes) -> int:
    known = _SECONDS.get(second)
    if known is None:
        try:
            known = int(time.mktime(time.strptime(second.decode(), "%Y-%m-%d %H:%M:%S")))
        except (ValueError, OverflowError):
            return 0
        if len(_SECONDS) > 128:
            _SECONDS.clear()
        _SECONDS[second] = known
    return known * 1_000_000_000 + int(milliseconds or b"0") * 1_000_000
