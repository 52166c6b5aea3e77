"""From an explanation to the words and evidence that an incident shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from misstep.core.identity import Session
from misstep.diagnosis.catalogue import Cause
from misstep.diagnosis.coverage import Gap
from misstep.diagnosis.entries import BY_ID, RIVALS_OF_RANKS
from misstep.diagnosis.explanation import Explanation
from misstep.diagnosis.observation import Evidence, Observation, of_rows
from misstep.diagnosis.window import SECOND, transitions

_STEPS = 12
_BEFORE = ("memory.", "kernel.", "crash.", "actor.restarts")
"""Kinds that lead to a cause if they come before it; all else follows from it."""
_FAILED = (
    "task.raised",
    "task.lost_worker",
    "task.lost_actor",
    "task.out_of_memory",
    "task.lost_node",
    "task.lost_object",
    "task.no_environment",
    "task.failed",
)
_SIGNALS = ("native-crash", "process-exit", "process-killed", "ray-oom-kill", "kernel-oom-kill")


def content(explanation: Explanation) -> dict[str, Any]:
    """All of an incident but its identity, status and times of writing."""
    case, cause, claim = explanation.case, explanation.cause, explanation.claim
    end = min(explanation.context.at, case.last + 2 * SECOND)
    not_it, unseen = _alternatives(explanation, case.onset - 2 * SECOND, end)
    blamed = [entity.to_dict() for entity in claim.blamed]
    for entity in blamed:
        entity["attributes"] = {
            key: value for key, value in entity["attributes"].items() if value not in (None, "", 0)
        }
    return {
        "severity": cause.severity,
        "cause": cause.id,
        "title": claim.title,
        "sentence": claim.sentence,
        "layer": cause.layer,
        "onset_ns": min([one.ts for one in claim.decisive] or [case.onset]),
        "confidence": _confidence(explanation, unseen),
        "blamed": blamed,
        "impact": _impact(explanation),
        "chain": chain(explanation),
        "not_it": not_it,
        "unseen": [gap.to_dict() for gap in unseen],
        "action": claim.action,
        "more": list(claim.more),
        "runbook": cause.runbook,
        "job": case.job,
        "when": explanation.context.clock(case.onset),
        "lasting": claim.lasting,
        "fault": f"{cause.id}/{claim.key}/{case.job}",
        "subjects": sorted(_subjects(explanation))[:100],
    }


def _subjects(explanation: Explanation) -> set[str]:
    """The links of the case, and the driver that it failed: a later tick may know better why that driver failed."""
    outcome = explanation.context.failed
    return explanation.case.links | (
        {f"driver/{outcome.job or outcome.pid}"} if outcome is not None else set()
    )


def chain(explanation: Explanation) -> list[dict[str, Any]]:
    """What happened, in order: what led to the cause, the cause, what followed."""
    case, claim = explanation.case, explanation.claim
    decisive = set(map(id, claim.decisive))
    told = [one for one in case.observations if not one.facts.get("told")] or case.observations
    told = [one for one in told if id(one) not in decisive]
    pivot = min([one.ts for one in claim.decisive] or [case.onset])
    steps = [_step(one, "cause") for one in claim.decisive]
    steps += [
        _step(one, "symptom" if one.ts <= pivot and one.kind.startswith(_BEFORE) else "consequence")
        for one in told
    ]
    steps += [_step(one, "symptom") for one in claim.extra]
    start = _start(explanation, pivot)
    if start is not None:
        steps.append(start)
    if explanation.context.failed is not None and not case.all("driver.failed"):
        steps.append(_driver_end(explanation))
    order = {"context": 0, "symptom": 1, "cause": 2, "consequence": 3}
    steps.sort(key=lambda step: (step["ts_ns"], order[step["role"]], step["entity"], step["statement"]))
    if len(steps) > _STEPS:
        keep = [step for step in steps if step["role"] != "consequence"][: _STEPS - 2]
        rest = [step for step in steps if step["role"] == "consequence"]
        room = _STEPS - len(keep)
        steps = [step for step in steps if step in keep or step in rest[: room - 1] or step in rest[-1:]]
    return steps


def _step(one: Observation, role: str) -> dict[str, Any]:
    return {
        "ts_ns": one.ts,
        "entity": one.entity,
        "name": one.name,
        "statement": one.statement,
        "role": role,
        "source": one.source,
        "count": one.count,
        "evidence": [evidence.to_dict() for evidence in one.evidence],
    }


def _start(explanation: Explanation, before: int) -> dict[str, Any] | None:
    """When the blamed task began to run."""
    blamed = explanation.claim.blamed[0] if explanation.claim.blamed else None
    if blamed is None or blamed.kind != "task" or len(blamed.id) != 48:
        return None
    best: tuple[int, Evidence, str] | None = None
    for row in explanation.context.window.rows("ray.task.lifecycle", entities=(f"task/{blamed.id}",)):
        for entry in transitions(explanation.context.window.body(row)):
            if entry.get("state") == "RUNNING" and row.ts <= before + SECOND:
                at = _nanoseconds(str(entry.get("timestamp") or "")) or row.ts
                if at <= before and (best is None or at > best[0]):
                    best = (at, of_rows([row])[0], row.attributes.get("process.pid", ""))
    if best is None:
        return None
    worker = f" on worker {best[2]}" if best[2] else ""
    return {
        "ts_ns": best[0], "entity": f"task/{blamed.id}", "name": f"task {blamed.name}", "statement": f"starts{worker}", "role": "context",
        "source": "ray_events", "count": 1, "evidence": [best[1].to_dict()],
    }  # fmt: skip


def _nanoseconds(text: str) -> int:
    """RFC 3339 with up to nine decimals, as Ray writes it, in Unix nanoseconds; 0 if it is none."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
        return seconds * SECOND + int(fraction.ljust(9, "0")[:9] or 0)
    except ValueError:
        return 0


def _driver_end(explanation: Explanation) -> dict[str, Any]:
    outcome = explanation.context.failed
    assert outcome is not None
    statement = outcome.how if outcome.state == "failed" else "ends; how is not known"
    name = outcome.name if outcome.name.startswith(("driver", "the driver")) else f"driver {outcome.name}"
    return {
        "ts_ns": max(outcome.ended, explanation.case.onset), "entity": f"job/{outcome.job}" if outcome.job else f"process/{outcome.pid}", "name": name,
        "statement": statement, "role": "consequence", "source": "process_exits", "count": 1, "evidence": [one.to_dict() for one in outcome.evidence],
    }  # fmt: skip


def _alternatives(explanation: Explanation, start: int, end: int) -> tuple[list[dict[str, str]], list[Gap]]:
    """What else it could have been: refuted by a source that was readable all the time, or not refuted at all."""
    coverage = explanation.context.coverage
    node = explanation.context.node_of(explanation.case)
    where = node.name if node else "the cluster"
    rivals = explanation.cause.rivals
    if Session.parse(explanation.context.window.session).kind == "torch":
        rivals = RIVALS_OF_RANKS.get(explanation.cause.id, rivals)
        where = next(
            (str(e.attributes["host"]) for e in explanation.claim.blamed if e.attributes.get("host")),
            "its host",
        )
    not_it, gaps = [], {gap.source: gap for gap in coverage.gaps(start, end)}
    lost = {claimed.id: claim for claimed, claim in explanation.rivals}
    for id in rivals:
        rival = BY_ID[id]
        if id in lost:
            not_it.append({"cause": rival.title, "reason": _why_less(explanation, rival)})
            continue
        missing = [gap for source in rival.needs if (gap := coverage.gap(source, start, end)) is not None]
        for gap in missing:
            gaps.setdefault(gap.source, gap)
        if not missing and rival.silence:
            not_it.append({"cause": rival.title, "reason": _silence(explanation, rival, where)})
    return not_it, [gaps[source] for source in sorted(gaps)]


def _silence(explanation: Explanation, rival: Cause, where: str) -> str:
    """What speaks against a rival: how the process is known to have ended, else the silence of the rival's sources."""
    blamed = explanation.claim.blamed[0].attributes if explanation.claim.blamed else {}
    signal, code = blamed.get("signal"), blamed.get("exit_code")
    if explanation.cause.id in _SIGNALS and rival.id in _SIGNALS[:3]:
        if signal:
            return f"it was killed by {signal}"
        if isinstance(code, int):
            return f"it left with exit code {code}"
    if rival.id == "ray-node-lost" and where == "the cluster":
        return "every node is alive"
    return rival.silence.format(node=where)


def _why_less(explanation: Explanation, rival: Cause) -> str:
    decisive = explanation.claim.decisive[0] if explanation.claim.decisive else None
    return f"{decisive.name} {decisive.statement}, which says more" if decisive else "explains less"


def _confidence(explanation: Explanation, unseen: list[Gap]) -> float:
    """The claim's own weight, less what could not be seen and would have spoken."""
    score = explanation.claim.score
    needed = {source for id in explanation.cause.rivals for source in BY_ID[id].needs}
    missing = len({gap.source for gap in unseen if not gap.partial} & needed)
    return round(max(0.05, score - 0.05 * missing), 2)


def _impact(explanation: Explanation) -> dict[str, Any]:
    case, claim = explanation.case, explanation.claim
    tasks = sum(one.count for one in case.all(*_FAILED) if not one.facts.get("told"))
    actors = len({one.entity for one in case.all("actor.died", "actor.lost_node", "actor.init_failed")})
    job = explanation.context.failed is not None
    told = [
        *([f"{tasks:,} failed attempt{'s' if tasks != 1 else ''}"] if tasks else []),
        *([f"{actors} actor{'s' if actors != 1 else ''} lost"] if actors else []),
        *(["the job failed"] if job else []),
    ]
    return {
        "summary": claim.impact if claim.impact and not told else ", ".join(told),
        "attempts": tasks,
        "actors": actors,
        "jobs": int(job),
    }


def tasks_waiting(blamed: list[dict[str, Any]]) -> list[str]:
    """Entities of the tasks that an incident says wait."""
    return [f"task/{id}" for entity in blamed for id in entity.get("attributes", {}).get("tasks", [])]


def groups_waiting(blamed: list[dict[str, Any]]) -> list[str]:
    """Entities of the placement groups that an incident says wait."""
    return [f"group/{id}" for entity in blamed for id in entity.get("attributes", {}).get("groups", [])]
