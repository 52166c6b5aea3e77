"""Whom a case is about: the task or actor, its process and its node."""

from __future__ import annotations

from typing import Any, NamedTuple

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.driver import Outcome
from misstep.diagnosis.roster import Task

_TASKS = ("task.out_of_memory", "task.lost_worker", "task.lost_actor", "task.raised")


class Subject(NamedTuple):
    """A task or actor as a person would name it, with where it ran; ids and names are empty where unknown."""

    kind: str
    id: str
    name: str
    pid: int
    worker: str
    node: str
    node_name: str
    calls: str

    @property
    def called(self) -> str:
        """``task tokenize`` or ``actor Encoder``; ``a worker`` if neither is known."""
        return f"{self.kind} {self.name}" if self.name else "a worker"

    @property
    def where(self) -> str:
        """``worker 21877 on node-2`` as far as it is known."""
        process = f"worker {self.pid}" if self.pid else "a worker"
        return f"{process} on {self.node_name}" if self.node_name else process

    def blame(self, **attributes: Any) -> list[Blamed]:
        """The subject first, then its process and node."""
        told = {key: value for key, value in attributes.items() if value not in (None, "", 0)}
        found = []
        if self.name or self.id:
            found.append(Blamed(self.kind, self.id, self.name or self.id, told))
        if self.pid or self.worker:
            process = {"pid": self.pid, "worker": self.worker}
            found.append(
                Blamed(
                    "process",
                    self.worker or str(self.pid),
                    f"worker {self.pid}" if self.pid else "worker",
                    process | told,
                )
            )
        if self.node:
            found.append(Blamed("ray_node", self.node, self.node_name, {}))
        return found


def subject(case: Case, ctx: Context, *, pid: int = 0, worker: str = "", function: str = "") -> Subject:
    """Whom a case is about.

    Args:
        pid, worker, function: what is known better than the case knows it.
    """
    workers = [worker] if worker else case.linked("ray_worker")
    pid = pid or _pid(case, ctx, workers)
    worker = worker or _worker(case, ctx, workers, pid)
    node = _node(case, ctx, worker)
    actor = next(iter(case.linked("actor")), "") or str(
        case.fact("actor", "task.lost_actor", "actor.died", "worker.died") or ""
    )
    if actor:
        known = ctx.roster.actor(actor)
        name = known.class_name or str(case.fact("class") or "")
        return Subject(
            "actor",
            actor,
            name,
            pid or known.pid,
            worker or known.worker,
            node or known.node,
            _name(ctx, node or known.node),
            "",
        )
    task = _task(case, ctx, worker, pid)
    name = function or str(case.fact("function", *_TASKS) or "") or (task.name if task else "")
    calls = (
        task.calls.path
        if task is not None and task.calls is not None and task.name == name
        else str(case.fact("calls") or "")
    )
    return Subject(
        "task",
        task.id if task is not None and task.name == name else "",
        name,
        pid,
        worker,
        node,
        _name(ctx, node),
        calls,
    )


def blame_driver(outcome: Outcome, **attributes: Any) -> list[Blamed]:
    """A driver first, then its process."""
    told = {key: value for key, value in attributes.items() if value not in (None, "", 0)}
    found = [Blamed("job", outcome.job or str(outcome.pid), outcome.name, told)]
    if outcome.pid:
        found.append(Blamed("process", str(outcome.pid), f"driver {outcome.pid}", {"pid": outcome.pid}))
    return found


def _name(ctx: Context, node: str) -> str:
    return ctx.roster.node_name(node) if node else ""


def _pid(case: Case, ctx: Context, workers: list[str]) -> int:
    pid = case.fact(
        "pid",
        "process.ended",
        "crash.report",
        "worker.out_of_memory",
        "worker.died",
        "actor.died",
        "task.lost_actor",
        "kernel.oom_kill",
        "kernel.segfault",
    )
    if pid:
        return int(pid)
    return next((ctx.roster.worker(worker).pid for worker in workers if ctx.roster.worker(worker).pid), 0)


def _worker(case: Case, ctx: Context, workers: list[str], pid: int) -> str:
    for worker in workers:
        if not pid or ctx.roster.worker(worker).pid in (pid, 0):
            return worker
    found = ctx.roster.worker_of(pid, case.last) if pid else None
    return found.id if found else ""


def _node(case: Case, ctx: Context, worker: str) -> str:
    node = ctx.roster.worker(worker).node if worker else ""
    return node or str(case.fact("node") or "")


def _task(case: Case, ctx: Context, worker: str, pid: int) -> Task | None:
    for id in case.linked("task"):
        task = ctx.roster.task(id)
        if task is not None:
            return task
    return ctx.roster.running_on(worker, pid, case.last) if worker or pid else None


def finality(case: Case, ctx: Context) -> tuple[bool, bool]:
    """Whether a death is final (nobody tries again, or trying again failed too), and whether it has healed."""
    lost = case.all("task.lost_worker")
    restarts = case.all("actor.restarts")
    dead = bool(case.all("actor.died"))
    if ctx.failed is not None or dead or len(restarts) >= 2:
        return True, False
    if lost:
        healed = all(one.facts.get("finished") for one in lost)
        again = any(int(one.facts.get("failed") or 1) >= 2 for one in lost if not one.facts.get("finished"))
        given_up = (
            any(not one.facts.get("retried") and not one.facts.get("finished") for one in lost)
            and ctx.since(case) >= 2
        )
        return (again or given_up) and not healed, healed
    if case.all("task.lost_actor") and not restarts:
        return ctx.since(case) >= 2, False
    return False, bool(restarts)


def size(number: float) -> str:
    """Bytes as a person would say them."""
    return f"{number / 1e9:.1f} GB" if abs(number) >= 1e9 else f"{number / 1e6:.0f} MB"


def times(number: int, one: str, many: str) -> str:
    """``1 task`` or ``3 tasks``."""
    return f"{number:,} {one if number == 1 else many}"
