"""The second look: what other sources say of the processes in a case. It runs only where something died."""

from __future__ import annotations

from misstep.core import names
from misstep.diagnosis.case import Case
from misstep.diagnosis.detectors.crash_report import crash_report
from misstep.diagnosis.detectors.deaths import process_link
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.detectors.processes import CRASHES, ending, exit_of, kernel_of, role_of
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.window import SECOND, Window

_DEATHS = (
    "worker.died",
    "actor.died",
    "actor.restarts",
    "task.lost_worker",
    "task.lost_actor",
    "worker.out_of_memory",
    "task.out_of_memory",
)
_SPEAK = ("worker.died", "actor.died", "actor.restarts", "task.lost_worker")
_MOST = 5
"""Processes of one case that are looked at; a fault that repeats looks alike each time."""


def inspect(window: Window, roster: Roster, case: Case) -> None:
    """Add what is recorded of the ends of a case's processes."""
    driver = case.first("driver.failed")
    if driver is not None and driver.facts["signal"] in CRASHES:
        pid = int(driver.facts["pid"])
        report = crash_report(window, "", pid, driver.ts, name=driver.name) if pid else None
        if report is not None:
            case.add(report)
    if not case.all(*_DEATHS):
        return
    for worker, pid, ip, at in _processes(roster, case)[:_MOST]:
        name = f"worker {pid}" if pid else f"worker {worker[:8]}"
        if pid:
            ended = exit_of(window, pid, ip, at, name=name)
            told = any(case.fact(name, *_SPEAK) for name in ("code", "signal"))
            by_ray = bool(case.all("worker.out_of_memory")) or told
            if ended is not None and not (by_ray and ended.facts["signal"] == "SIGKILL"):
                case.add(ended)  # Ray kills what it said it kills, and what told it how it ends
            for line in kernel_of(window, pid, at, name=name):
                case.add(line)
        report = crash_report(window, worker, pid, at, name=name) if worker or pid else None
        if report is not None:
            case.add(report)


def _processes(roster: Roster, case: Case) -> list[tuple[str, int, str, int]]:
    """The processes of a case, as (worker, pid, address, when it died), oldest first."""
    found: dict[int, tuple[str, int, str, int]] = {}
    loose: list[tuple[str, int, str, int]] = []
    for one in case.all(*_DEATHS):
        pid, worker = int(one.facts.get("pid") or 0), str(one.facts.get("worker") or "")
        ip = str(one.facts.get("ip") or "")
        if not pid and worker:
            pid = roster.worker(worker).pid
        if not pid and one.facts.get("actor"):
            actor = roster.actor(str(one.facts["actor"]))
            pid, worker = actor.pid, worker or actor.worker
        if pid and not worker:
            known = roster.worker_of(pid, one.ts)
            worker = known.id if known else ""
        if pid:
            found.setdefault(pid, (worker, pid, ip, one.ts))
        elif worker:
            loose.append((worker, 0, ip, one.ts))
    return sorted([*found.values(), *loose], key=lambda one: (one[3], one[1], one[0]))


def suspect(window: Window, roster: Roster, outcome: Outcome) -> Observation | None:
    """The worker whose end fits a driver's ``WorkerCrashedError`` best, when Ray's own word of it was lost.

    At a driver's end Ray stops every worker, by exit code 1 or SIGKILL; before that only the culprit ends.
    """
    rows = window.rows(
        "process.exit",
        states=("exited", "killed"),
        since=outcome.ended - 15 * SECOND,
        until=outcome.ended + 2 * SECOND,
    )
    ends = [(row, *ending(row)) for row in rows if role_of(window, row) == "ray_worker"]
    ends = [(row, signal, code) for row, signal, code in ends if signal or code]
    crashes = [row for row, signal, _ in ends if signal in CRASHES]
    odd = [row for row, _, code in ends if code not in (None, 1)]
    best = next(
        iter([*crashes, *odd, *(row for row, _, _ in ends if row.ts < outcome.ended - SECOND // 5)]), None
    )
    if best is None:
        return None
    signal, code = ending(best)
    pid = int(best.attributes.get(names.PID, "0"))
    worker = roster.worker_of(pid, best.ts)
    return Observation(
        kind="process.ended",
        entity=best.entity,
        name=f"worker {pid}",
        ts=best.ts,
        statement=f"killed by {signal}" if signal else f"exits with code {code}",
        source="process_exits",
        links=frozenset({process_link("", pid)} | ({f"ray_worker/{worker.id}"} if worker else set())),
        facts={
            "pid": pid,
            "signal": signal,
            "code": code,
            "known": True,
            "worker": worker.id if worker else "",
        },
        evidence=of_rows([best]),
    )
