"""Drivers: how each one ended, and what its last words blame."""

from __future__ import annotations

from signal import Signals
from typing import Any, NamedTuple

from misstep.core import names
from misstep.diagnosis.detectors.deaths import process_link
from misstep.diagnosis.detectors.processes import CRASHES, ending, exits, manner, role_of
from misstep.diagnosis.failures import Failure, classify, error_type
from misstep.diagnosis.observation import Evidence, Observation, of_rows
from misstep.diagnosis.roster import Job, Roster
from misstep.diagnosis.traceback import Raised, parse
from misstep.diagnosis.window import SECOND, Window, entity_id
from misstep.store.rows import LogRow

_INTERRUPTS = ("SIGINT",)
_TRACEBACK = "Traceback (most recent call last)"
ANSWER = 2 * SECOND
"""So long after a driver has left Ray, its exit may still be on its way."""

WATCHED = 15 * SECOND
"""The same where the process is watched, so that its end is certain to be told; on a busy machine it takes its time."""


class Outcome(NamedTuple):
    """How a driver stands.

    Attributes:
        state: ``running``, ``ok``, ``failed``, ``interrupted`` (somebody stopped it) or ``unknown`` (it is
            gone, and nothing says how).
        ended: when it ended, 0 while it runs.
        blames: links of the fault that its last words name; empty if they name none.
        own: the error that it raised itself, if its last words name one.
        how: words for the sentence, for example ``exits with code 3``.
    """

    job: str
    pid: int
    entrypoint: str
    state: str
    ended: int
    how: str
    signal: str
    code: int | None
    blames: frozenset[str]
    own: Raised | None
    text: str
    error: str
    evidence: tuple[Evidence, ...]
    host: str

    @property
    def name(self) -> str:
        """How a person calls the driver."""
        for word in self.entrypoint.split():
            if word.endswith(".py"):
                return word.rsplit("/", 1)[-1]
        return f"driver {self.pid}" if self.pid else "the driver"


def outcomes(window: Window, roster: Roster) -> tuple[list[Outcome], list[Observation]]:
    """How every driver and command of the session stands, and the failures that their last words tell of."""
    found, told = [], []
    known = set()
    for job in roster.jobs:
        known.add(job.pid)
        outcome, failure = _outcome(window, job)
        found.append(outcome)
        told += _told(window, outcome, failure)
    for row in window.rows("process.exception", "command.exit", since=window.since):
        pid = _pid(row)
        if pid in known or pid == 0:
            continue
        known.add(pid)
        if _wrapper(window, row, roster) or role_of(window, row) == "rank":
            continue
        start = window.rows("command.start", "process.start", entities=(row.entity,), limit=1)
        command = next((one.attributes.get(names.COMMAND, "") for one in (*start, row)), "")
        stand_in = Job("", pid, command, "", window.since, 0, row)
        outcome, failure = _outcome(window, stand_in)
        found.append(outcome)
        told += _told(window, outcome, failure)
    for submission in _orphans(window, roster):
        outcome, failure = _outcome(window, submission)
        found.append(outcome)
        told += _told(window, outcome, failure)
    return found, told


def _wrapper(window: Window, row: LogRow, roster: Roster) -> bool:
    """Whether a command only wraps a driver that is known by itself: its end is the driver's end."""
    return bool(roster.jobs) and row.event == "command.exit"


def _orphans(window: Window, roster: Roster) -> list[Job]:
    """Submitted jobs whose driver never reached Ray."""
    known = {job.submission for job in roster.jobs if job.submission}
    found: dict[str, Job] = {}
    for row in window.rows("ray.submission", since=window.since):
        id = row.attributes.get(names.RAY_SUBMISSION, "")
        if (
            id
            and id not in known
            and row.attributes.get(names.RAY_JOB, "") not in {job.id for job in roster.jobs}
        ):
            body = window.body(row)
            found[id] = Job(
                entity_id(row.entity), 0, str(body.get("entrypoint") or ""), id, window.since, 0, row
            )
    return list(found.values())


def _outcome(window: Window, job: Job) -> tuple[Outcome, Failure | None]:
    state, how, signal, code, text, ended = "running", "", "", None, "", 0
    rows: list[LogRow] = []
    aside: list[tuple[LogRow, str]] = []  # what threads died of; the process may have lived on
    for row in _submissions(window, job):
        body = window.body(row)
        ended = row.ts if row.state in ("SUCCEEDED", "FAILED", "STOPPED") else ended
        state = {"SUCCEEDED": "ok", "FAILED": "failed", "STOPPED": "interrupted"}.get(row.state, state)
        if row.state == "FAILED":
            rows.append(row)
            text = str(body.get("message") or "")
            exit_value = body.get("driverExitCode", body.get("driver_exit_code"))
            code = int(exit_value) if isinstance(exit_value, int) else code
            how = f"exits with code {code}" if code is not None else "fails"
            signal = _signal_of(code)
            if signal:
                code, how = None, f"killed by {signal}"
    if job.pid:
        for row in exits(window, job.pid, since=job.started - SECOND):
            rows.append(row)
            ended = ended or row.ts
            one_signal, one_code = ending(row)
            if one_signal or one_code is not None:
                signal, code, how = one_signal, one_code, manner(row)
                if state in ("running", "unknown"):
                    state = _verdict(signal, code)
            elif state == "running":
                state, how = "unknown", "is gone"
        for row in window.rows(
            "process.exception", attributes={names.PID: str(job.pid)}, since=job.started - SECOND
        ):
            words = row.body or row.attributes.get(names.EXCEPTION_STACK, "")
            if row.attributes.get(names.THREAD):
                aside.append((row, words))
                continue
            rows.append(row)
            ended = ended or row.ts
            text = words
            if row.attributes.get(names.EXCEPTION_TYPE, "").endswith("KeyboardInterrupt"):
                state = "interrupted"
            elif state != "interrupted":
                state = "failed"
    ended = job.finished or ended
    if state == "running" and job.finished:
        watched = job.pid and window.rows("process.start", attributes={names.PID: str(job.pid)})
        patience = WATCHED if watched else ANSWER
        state = "unknown" if window.at >= job.finished + patience else "leaving"
    if state == "failed" and not text and aside:
        row, text = aside[-1]
        rows.append(row)
    if state in ("failed", "unknown") and not text:
        text = _log_text(window, job)
        state = "failed" if state == "unknown" and text else state
    if state in ("failed", "unknown") and not text and _stopped_from_outside(window, job, ended, rows):
        state = "interrupted"
    chain = parse(text) if text else []
    if chain and chain[-1].type == "KeyboardInterrupt":
        state = "interrupted"
    failure = _failure(chain, text) if state in ("failed", "unknown") else None
    blames = failure.links if failure is not None and failure.kind else frozenset()
    own = chain[-1] if chain and failure is None else None
    error = error_type(chain[-1]) if chain else ""
    host = rows[-1].resource.get(names.HOST_NAME, "") if rows else ""
    outcome = Outcome(
        job.id, job.pid, job.entrypoint, state, ended if state != "running" else 0, how or "fails", signal, code, blames,
        own, text, error, of_rows(rows), host,
    )  # fmt: skip
    return outcome, failure


def _failure(chain: list[Raised], text: str) -> Failure | None:
    """The fault in a task, actor or node that a driver's last words tell of; None if it raised the error itself."""
    if not chain:
        return None
    last = chain[-1]
    kind = error_type(last)
    if any(section.type == "RuntimeEnvSetupError" for section in chain):
        kind = "RUNTIME_ENV_SETUP_FAILED"
    if kind == "TASK_EXECUTION_EXCEPTION" and not last.function and "creation task" not in text:
        return None
    failure = classify(kind, text, function=last.function)
    return failure if failure.kind else None


def _told(window: Window, outcome: Outcome, failure: Failure | None) -> list[Observation]:
    """The failure that a driver's last words tell of, as if it had been observed itself."""
    if failure is None or outcome.state not in ("failed", "unknown"):
        return []
    facts: dict[str, Any] = dict(failure.facts) | {"job": outcome.job, "attempts": 1, "told": True}
    chain = parse(outcome.text)
    if not facts.get("function") and failure.kind in ("task.lost_worker", "task.out_of_memory"):
        facts["function"] = next((raised.function for raised in reversed(chain) if raised.function), "")
    links = set(failure.links)
    if facts.get("pid") and failure.kind != "task.raised":
        links.add(process_link(str(facts.get("ip") or ""), int(facts["pid"])))
    name = facts.get("function") or facts.get("class") or ""
    kind = "an actor" if failure.kind == "task.lost_actor" and not name else "a task"
    return [
        Observation(
            kind=failure.kind,
            entity=f"job/{outcome.job}" if outcome.job else f"process/{outcome.pid}",
            name=(f"actor {name}" if failure.kind == "task.lost_actor" else f"task {name}") if name else kind,
            ts=outcome.ended or window.at,
            statement=_headline(failure),
            source="driver_exceptions",
            links=frozenset(links),
            facts=facts,
            evidence=outcome.evidence,
        )
    ]


def _headline(failure: Failure) -> str:
    raised = failure.raised
    if raised is not None and failure.kind == "task.raised":
        return f"fails: {raised.type}: {raised.message}".rstrip(": ")
    return "failed, says the driver" + (f": {raised.type}" if raised is not None else "")


def _verdict(signal: str, code: int | None) -> str:
    if signal:
        return "interrupted" if signal in _INTERRUPTS else "failed"
    if code == 0:
        return "ok"
    return "interrupted" if code == 130 else "failed"


def _signal_of(code: int | None) -> str:
    """The signal that an exit code stands for: Python's are negative, a shell's start at 128."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    found = next((one.name for one in Signals if one == number), "")
    return found if found in CRASHES or found in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP") else ""


def _submissions(window: Window, job: Job) -> list[LogRow]:
    found: list[LogRow] = []
    if job.submission:
        found += window.rows("ray.submission", attributes={names.RAY_SUBMISSION: job.submission})
    if job.id:
        found += window.rows("ray.submission", entities=(f"job/{job.id}",))
    return sorted(
        {(row.seq, row.row): row for row in found}.values(), key=lambda row: (row.ts, row.seq, row.row)
    )


def _log_text(window: Window, job: Job) -> str:
    """The traceback at the end of a submitted job's driver log."""
    if not job.submission:
        return ""
    lines = window.rows(
        plain=True,
        contains=(),
        since=window.since,
        attributes={names.RAY_SUBMISSION: job.submission},
        limit=400,
        newest=True,
    )
    text = "\n".join(row.body for row in sorted(lines, key=lambda row: (row.seq, row.row)))
    start = text.rfind(_TRACEBACK)
    return text[start:] if start >= 0 else ""


def _stopped_from_outside(window: Window, job: Job, ended: int, rows: list[LogRow]) -> bool:
    """Whether Ray was shut down under a driver that said nothing: then it was `ray stop` that ended it.

    A driver that started Ray itself takes it down before it exits; there the raylet is its child.
    """
    if not ended:
        return False
    own = {row.entity for row in rows}
    for row in window.rows(
        "process.exit", states=("exited", "killed"), since=ended - 10 * SECOND, until=ended + SECOND
    ):
        signal, code = ending(row)
        if role_of(window, row) != "raylet" or not (signal == "SIGTERM" or code in (0, 15)):
            continue
        if job.finished and job.finished <= row.ts:
            continue
        starts = window.rows("process.start", entities=(row.entity,), limit=1)
        parent = next((start.attributes.get(names.PARENT_ENTITY, "") for start in starts), "")
        if parent and parent not in own:
            return True
    return False


def _pid(row: LogRow) -> int:
    pid = row.attributes.get(names.PID, "")
    return int(pid) if pid.isdigit() else 0
