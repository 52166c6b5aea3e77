"""Workers, actors and nodes that Ray reports dead though nobody wanted it."""

from __future__ import annotations

from typing import Any

from misstep.core import names
from misstep.diagnosis.failures import deliberate_end
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.raytext import end_signal, exit_code, memory_kill, without_guesses
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.traceback import plain, root
from misstep.diagnosis.window import Window, entity_id, transitions
from misstep.store.rows import LogRow

_EXPECTED = ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE")


def process_link(ip: str, pid: int) -> str:
    """The link of a process: pids of two machines may be the same."""
    return f"pid/{ip}/{pid}"


def workers(window: Window, roster: Roster) -> list[Observation]:
    """Ends of workers that were not intended."""
    found = []
    for row in window.rows(
        "ray.worker.lifecycle", states=("DEAD",), since=window.since, limit=2000, newest=True
    ):
        entry = _last(window, row, "DEAD")
        death = entry.get("deathInfo") or {}
        kind, detail = (
            str(death.get("exitType") or row.attributes.get(names.RAY_EXIT_TYPE, "")),
            str(death.get("exitDetail") or ""),
        )
        code = exit_code(detail)
        if deliberate_end(kind, detail, code) or not kind:
            continue
        found.append(_worker(roster, row, kind, plain(detail), code, int(death.get("memoryUsedBytes") or 0)))
    return found


def _worker(roster: Roster, row: LogRow, kind: str, detail: str, code: int | None, used: int) -> Observation:
    id = entity_id(row.entity)
    worker = roster.worker(id)
    node = roster.nodes.get(worker.node)
    ip = node.ip if node else ""
    links = {row.entity} | ({process_link(ip, worker.pid)} if worker.pid else set())
    actor = roster.actor_on(id)
    links |= {f"actor/{actor}"} if actor else set()
    job = row.attributes.get(names.RAY_JOB, "")
    signal = end_signal(detail)
    code = None if signal else code
    facts: dict[str, Any] = {
        "exit_type": kind, "detail": without_guesses(detail)[:400], "code": code, "pid": worker.pid, "ip": ip,
        "node": worker.node, "worker": id, "used": used, "job": job, "actor": actor,
        "signal": signal,
    }  # fmt: skip
    observed, statement = (
        "worker.died",
        f"ends unexpectedly ({facts['detail'].splitlines()[0] if facts['detail'] else kind})",
    )
    if kind == "NODE_OUT_OF_MEMORY":
        kill = memory_kill(detail)
        observed = "worker.out_of_memory"
        statement = "killed by Ray's memory monitor" + (f", {_gigabytes(used)}" if used else "")
        if kill is not None:
            facts["kill"] = kill
            links |= {f"memory/{kill.mark}"}
    elif kind == "USER_ERROR":
        raised = root(detail)
        observed, statement = "worker.init_failed", "ends, its actor's __init__ raised"
        if raised is not None and raised.signature:
            links |= {f"raise/{raised.signature}"}
    elif signal:
        statement = f"is ended by {signal}"
    elif code is not None:
        statement = f"exits with code {code}"
    return Observation(
        kind=observed,
        entity=row.entity,
        name=f"worker {worker.pid}" if worker.pid else f"worker {id[:8]}",
        ts=row.ts,
        statement=statement,
        source="ray_events",
        links=frozenset(links),
        facts=facts,
        evidence=of_rows([row]),
    )


def actors(window: Window, roster: Roster) -> list[Observation]:
    """Actors that died or were restarted without anybody having wanted it."""
    found = []
    rows = window.rows(
        "ray.actor.lifecycle", states=("DEAD", "RESTARTING"), since=window.since, limit=2000, newest=True
    )
    rows += list(
        window.rows(
            "ray.actor.lifecycle",
            states=("ALIVE",),
            since=window.since,
            contains=("RESTARTING",),
            limit=500,
            newest=True,
        )
    )
    dead = set()  # Ray tells an actor's death again when its driver leaves
    for row in sorted(rows, key=lambda row: (row.ts, row.entity)):
        for one in _actor(window, roster, row):
            if one.kind == "actor.restarts" or one.entity not in dead:
                found.append(one)
            if one.kind != "actor.restarts":
                dead.add(one.entity)
    return found


def _actor(window: Window, roster: Roster, row: LogRow) -> list[Observation]:
    id = entity_id(row.entity)
    found = []
    seen_dead = False
    entries = transitions(window.body(row))
    for entry in entries:
        state = entry.get("state")
        if state == "RESTARTING" or (state == "DEAD" and not seen_dead):
            seen_dead = seen_dead or state == "DEAD"
            observation = _actor_end(roster, row, id, str(state), entry)
            if observation is not None:
                found.append(observation)
    return found


def _actor_end(roster: Roster, row: LogRow, id: str, state: str, entry: dict[str, Any]) -> Observation | None:
    cause = entry.get("deathCause") or {}
    context = cause.get("actorDiedErrorContext") or {}
    created = cause.get("creationTaskFailureContext") or {}
    text = str(context.get("errorMessage") or created.get("formattedExceptionString") or "")
    for other in ("runtimeEnvFailedContext", "actorUnschedulableContext", "oomContext"):
        text = text or str((cause.get(other) or {}).get("errorMessage") or "")
    actor = roster.actor(id)
    reason = str(context.get("reason") or "")
    code = exit_code(text)
    exit_type = text.partition("Worker exit type: ")[2].split(" ", 1)[0]
    if state == "DEAD" and (
        reason in ("RAY_KILL", "OUT_OF_SCOPE", "REF_DELETED")
        or deliberate_end(exit_type, text, code)
        or not cause
    ):
        return None
    if reason == "OWNER_DIED" or "owner has died" in text or "job finished" in text.lower():
        return None
    pid = int(context.get("pid") or 0) or actor.pid
    links, kind = {row.entity}, "actor.died" if state == "DEAD" else "actor.restarts"
    if reason == "NODE_DIED" or "node has died" in text:
        kind, links = "actor.lost_node", {f"ray_node/{actor.node}"}
    elif created:
        raised = root(text)
        kind = "actor.init_failed"
        if raised is not None and raised.signature:
            links.add(f"raise/{raised.signature}")
    elif "runtimeEnvFailedContext" in cause:
        return None
    statement = {
        "actor.restarts": "restarts",
        "actor.init_failed": "dies, its __init__ raised",
        "actor.lost_node": "dies with its node",
    }.get(kind, "dies")
    name = actor.class_name or str(context.get("className") or "")
    signal = end_signal(text)
    return Observation(
        kind=kind,
        entity=row.entity,
        name=f"actor {name}" if name else "an actor",
        ts=row.ts,
        statement=statement,
        source="ray_events",
        links=frozenset(links),
        facts={
            "class": name, "pid": pid, "ip": str(context.get("nodeIpAddress") or ""), "actor": id, "job": actor.job, "node": actor.node,
            "worker": actor.worker, "detail": without_guesses(text.partition("Worker exit detail: ")[2])[:400], "code": None if signal else code,
            "signal": signal, "exit_type": exit_type,
        },
        evidence=of_rows([row]),
    )  # fmt: skip


def nodes(window: Window, roster: Roster) -> list[Observation]:
    """Nodes that Ray declared dead."""
    found = []
    for row in window.rows("ray.node.lifecycle", states=("DEAD",), since=window.since):
        death = _last(window, row, "DEAD").get("deathInfo") or {}
        reason, message = str(death.get("reason") or ""), str(death.get("reasonMessage") or "")
        if reason in _EXPECTED:
            continue
        id = entity_id(row.entity)
        node = roster.nodes.get(id)
        found.append(
            Observation(
                kind="node.preempted" if reason == "AUTOSCALER_DRAIN_PREEMPTED" else "node.died",
                entity=row.entity,
                name=f"node {roster.node_name(id)}".replace("node node ", "node "),
                ts=row.ts,
                statement=f"declared dead: {message or reason}",
                source="ray_events",
                links=frozenset({row.entity}),
                facts={
                    "node": id,
                    "name": roster.node_name(id),
                    "reason": reason,
                    "message": message,
                    "ip": node.ip if node else "",
                },
                evidence=of_rows([row]),
            )
        )
    return found


def _last(window: Window, row: LogRow, state: str) -> dict[str, Any]:
    return next(
        (entry for entry in reversed(transitions(window.body(row))) if entry.get("state") == state), {}
    )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
