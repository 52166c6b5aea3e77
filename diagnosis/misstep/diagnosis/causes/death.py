"""Processes that died: by a fault of native code, by leaving on their own, or by somebody else's hand."""

from __future__ import annotations

from typing import NamedTuple

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Claim
from misstep.diagnosis.causes.subject import Subject, blame_driver, finality, subject
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.processes import CRASHES
from misstep.diagnosis.observation import Observation

_DEATHS = ("worker.died", "actor.died", "task.lost_worker", "task.lost_actor", "actor.restarts")
_WAIT = 2.0
"""Seconds that a death without a known manner waits for the record of the exit, which other sources bring."""

_MEANING = {
    "SIGSEGV": "an invalid memory access", "SIGBUS": "a bus error, often a full /dev/shm or a truncated mapped file", "SIGABRT": "an abort, as assertions in native code make it",
    "SIGILL": "an illegal instruction, often a wheel built for another CPU", "SIGFPE": "an arithmetic fault in native code",
}  # fmt: skip


_UNDONE = "was not stored"
"""So ends the check that fails where a signal stops a worker between two calls: the call gives back nothing."""


class Manner(NamedTuple):
    """How a process died: by a signal, or with an exit code, or nobody knows; with the observation that says so."""

    signal: str
    code: int | None
    told_by: Observation | None
    place: str = ""


def manner_of(case: Case) -> Manner:
    """How the process of a case died. Ray's own words go first: it kills what has already said that it leaves."""
    report = case.first("crash.report")
    if report is not None:
        return Manner(str(report.facts["signal"]), None, report, str(report.facts.get("path") or ""))
    for one in case.all("worker.died", "actor.died", "task.lost_worker", "task.lost_actor", "actor.restarts"):
        if one.facts.get("signal"):
            return Manner(str(one.facts["signal"]), None, one)
    for one in case.all("worker.died", "actor.died", "task.lost_worker", "task.lost_actor"):
        if one.facts.get("code") is not None:
            return Manner("", int(one.facts["code"]), one)
    segfault = case.first("kernel.segfault")
    if segfault is not None:
        return Manner("SIGSEGV", None, segfault)
    ended = [one for one in case.all("process.ended") if one.facts.get("known")]
    for one in sorted(ended, key=lambda one: (one.facts["signal"] not in CRASHES, one.order)):
        code = one.facts.get("code")
        return Manner(str(one.facts["signal"] or ""), int(code) if code is not None else None, one)
    return Manner("", None, None)


def native_crash(case: Case, ctx: Context) -> Claim | None:
    """A fatal signal that the process brought on itself."""
    if case.all("driver.failed"):
        return _driver_crash(case, ctx)
    manner = manner_of(case)
    if manner.signal not in CRASHES or manner.told_by is None:
        return None
    who = subject(case, ctx)
    final, healed = finality(case, ctx)
    meaning = _MEANING.get(manner.signal, "a fatal fault in native code")
    at = f" at {manner.place}" if manner.place else ""
    inside = str(case.fact("inside", "crash.report") or "")
    decisive = case.all("process.ended", "crash.report", "kernel.segfault")
    return Claim(
        blamed=who.blame(signal=manner.signal, place=manner.place, pid=who.pid),
        title=f"{who.called} crashed ({manner.signal})",
        sentence=f"{_of(who)} died of {manner.signal}, {meaning}{at}"
        + (f" (in {inside})" if inside and manner.place else "")
        + "."
        + _repeat(case),
        action=[
            f"look at {manner.place}: what it calls into native code is what crashed"
            if manner.place
            else f"run {who.name or 'it'} with PYTHONFAULTHANDLER=1 to see the Python line it dies at",
            "check the versions of the native packages it uses against each other (NumPy, PyTorch, CUDA, your own extension)",
        ],
        score=0.95,
        decisive=tuple(decisive[:2]) or (manner.told_by,),
        key=who.called,
        ripe=final,
        healed=healed,
        more=(f"misstep logs ray_worker/{who.worker}",) if who.worker else (),
    )


def _driver_crash(case: Case, ctx: Context) -> Claim | None:
    """The driver itself died of a fault in native code."""
    outcome = ctx.failed
    if outcome is None or outcome.own is not None or outcome.signal not in CRASHES:
        return None
    place = str(case.fact("path", "crash.report") or "")
    inside = str(case.fact("inside", "crash.report") or "")
    meaning = _MEANING.get(outcome.signal, "a fatal fault in native code")
    told = case.all("kernel.segfault", "crash.report", "driver.failed")
    return Claim(
        blamed=blame_driver(outcome, signal=outcome.signal, place=place, pid=outcome.pid),
        title=f"the driver crashed ({outcome.signal})",
        sentence=f"The driver ({outcome.name}, pid {outcome.pid}) died of {outcome.signal}, {meaning}"
        + (f" at {place}" if place else "")
        + (f" (in {inside})" if inside and place else "")
        + "; no task or actor had failed it.",
        action=[
            f"look at {place}: what it calls into native code is what crashed"
            if place
            else f"look at the end of what {outcome.name} printed: Python's fault handler, which Ray turns on, writes the line that it died at",
            "check the versions of the native packages it uses against each other (NumPy, PyTorch, CUDA, your own extension)",
        ],
        score=0.95,
        decisive=tuple(told[:2]),
        key=f"driver/{outcome.pid}",
        impact="the job failed",
    )


def process_exit(case: Case, ctx: Context) -> Claim | None:
    """The process left by itself, with a code or with one that nobody could see."""
    manner = manner_of(case)
    died = case.all(*_DEATHS)
    if not died or manner.signal:
        return None
    check = _failed_check(case, manner)
    if check is not None and _UNDONE in str(check.facts["check"]):
        return None
    who = subject(case, ctx)
    final, healed = finality(case, ctx)
    if check is not None:
        return Claim(
            blamed=who.blame(exit_code=1, check=check.facts["check"], pid=who.pid),
            title=f"Ray's own code in {who.called} gave up",
            sentence=f"{_of(who)} was ended by Ray's own code in it, because a check failed that never should: {check.facts['check']}.{_repeat(case)}".replace(
                "..", "."
            ),
            action=["look for the check in Ray's issues; it is an error of Ray's, or of what it was given"],
            score=0.9,
            decisive=(check,),
            key=who.called,
            ripe=final,
            healed=healed,
            more=(f"misstep logs ray_worker/{who.worker}",) if who.worker else (),
        )
    if manner.code is not None:
        told = manner.told_by
        assert told is not None
        return Claim(
            blamed=who.blame(exit_code=manner.code, pid=who.pid),
            title=f"{who.called} left with exit code {manner.code}",
            sentence=f"{_of(who)} ended its own process with exit code {manner.code}, no signal and no exception: something in it called os._exit or sys.exit.{_repeat(case)}",
            action=[
                f"look in {who.name or 'its code'}, and in the libraries it calls, for os._exit({manner.code}) or sys.exit({manner.code})"
            ],
            score=0.9,
            decisive=(told,),
            key=who.called,
            ripe=final,
            healed=healed,
            more=(f"misstep logs ray_worker/{who.worker}",) if who.worker else (),
        )
    gap = ctx.coverage.gap("process_exits", case.onset, ctx.at)
    reason = gap.reason if gap else "no record of its end came"
    remedy = f"; {gap.remedy} would show it" if gap and gap.remedy else ""
    cause = case.first("worker.died", "actor.died") or died[0]
    return Claim(
        blamed=who.blame(exit_code="unknown", pid=who.pid),
        title=f"{who.called} lost its process",
        sentence=f"The process of {_of(who).replace('The process of ', '')} ended without a word to Ray. Its exit code cannot be known because {reason}{remedy}.{_repeat(case)}",
        action=[
            *([f"to see exit codes: {gap.remedy}"] if gap and gap.remedy else []),
            f"look in {who.name or 'its code'} for os._exit, and on the machine for whoever may have killed it",
        ],
        score=0.5,
        decisive=(cause,),
        key=who.called,
        ripe=final and ctx.since(case) >= _WAIT,
        healed=healed,
        more=(f"misstep logs ray_worker/{who.worker}",) if who.worker else (),
    )


def process_killed(case: Case, ctx: Context) -> Claim | None:
    """A signal from outside ended the process."""
    manner = manner_of(case)
    check = _failed_check(case, manner)
    if check is not None and _UNDONE in str(check.facts["check"]) and case.all(*_DEATHS):
        return _cut_short(case, ctx, check)
    if not manner.signal or manner.signal in CRASHES or manner.told_by is None or not case.all(*_DEATHS):
        return None
    who = subject(case, ctx)
    final, healed = finality(case, ctx)
    return Claim(
        blamed=who.blame(signal=manner.signal, pid=who.pid),
        title=f"{who.called} was killed ({manner.signal})",
        sentence=f"{_of(who)} was killed from outside by {manner.signal}: neither Ray nor its own code asked for it.{_repeat(case)}",
        action=[
            f"find who sent {manner.signal} to pid {who.pid or '?'}: a supervisor, a cgroup or container limit, a person, a cleanup script",
            f"if it may happen again, let Ray retry: max_retries or max_restarts on {who.name or 'it'}",
        ],
        score=0.85,
        decisive=(manner.told_by,),
        key=who.called,
        ripe=final and ctx.since(case) >= 1,
        healed=healed,
    )


def _failed_check(case: Case, manner: Manner) -> Observation | None:
    """The check of Ray's own by which a process ended; it leaves with exit code 1 then, and says no more to Ray."""
    return case.first("crash.check") if not manner.signal and manner.code in (None, 1) else None


def _cut_short(case: Case, ctx: Context, check: Observation) -> Claim:
    """Ray turns SIGTERM into SystemExit, and where that comes before the user's code runs, a check of Ray's own fails."""
    who = subject(case, ctx)
    final, healed = finality(case, ctx)
    return Claim(
        blamed=who.blame(check=check.facts["check"], exit_code=1, pid=who.pid),
        title=f"{who.called} was stopped from outside, most likely by SIGTERM",
        sentence=f"{_of(who)} was stopped as a call began, before any code of its own ran: {check.facts['check']} "
        f"Ray's worker ends so, with exit code 1, when SIGTERM reaches it between two calls; os._exit and sys.exit in its own code look different.{_repeat(case)}",
        action=[
            f"find who sent SIGTERM to pid {who.pid or '?'}: a supervisor, a batch system's limit, a person, a cleanup script",
            f"if it may happen again, let Ray retry: max_retries or max_restarts on {who.name or 'it'}",
        ],
        score=0.75,
        decisive=(check,),
        key=who.called,
        ripe=final and ctx.since(case) >= 1,
        healed=healed,
    )


def _of(who: Subject) -> str:
    if not who.name:
        return who.where[:1].upper() + who.where[1:]
    return f"{who.called[:1].upper()}{who.called[1:]} ({who.where})"


def _repeat(case: Case) -> str:
    restarts = len(case.all("actor.restarts"))
    number = restarts + bool(restarts and case.all("actor.died")) or max(
        (int(one.facts.get("failed") or 1) for one in case.all("task.lost_worker")), default=1
    )
    return f" It did so {number} times." if number > 1 else ""
