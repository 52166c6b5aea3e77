"""Nodes that were lost, objects that went with their owner, environments that could not be made."""

from __future__ import annotations

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.causes.subject import times
from misstep.diagnosis.context import Context

_GONE = ("raylet.ended", "node.died", "node.preempted")


def ray_node_lost(case: Case, ctx: Context) -> Claim | None:
    """A node is gone that nobody took down."""
    gone = case.all(*_GONE)
    lost = case.all("task.lost_node", "actor.lost_node")
    if not gone and not lost:
        return None
    id = next(iter(case.linked("ray_node")), "")
    node = ctx.roster.nodes.get(id)
    name = node.name if node else str(case.fact("name") or (f"node {id[:8]}" if id else "a node"))
    if not gone and node is not None and node.ended:
        return None  # Ray declared it dead, and no detector calls that unexpected: it was taken down
    raylet = case.first("raylet.ended")
    preempted = case.first("node.preempted")
    died = case.first("node.died")
    tasks, actors = (
        sum(one.count for one in lost if one.kind == "task.lost_node" and not one.facts.get("told")),
        len({one.entity for one in case.all("actor.lost_node", "task.lost_actor", "actor.died")}),
    )
    how = (
        raylet.statement.replace("loses its", "it lost its")
        if raylet
        else preempted.statement
        if preempted
        else died.statement
        if died
        else "its tasks report that it is gone"
    )
    signal = str(raylet.facts.get("signal") or "") if raylet else ""
    head = node is not None and node.head
    effect = ", ".join(
        [
            *([f"{times(tasks, 'task', 'tasks')} failed with it"] if tasks else []),
            *([f"{times(actors, 'actor', 'actors')} died with it"] if actors else []),
        ]
    )
    blamed = [
        Blamed(
            "ray_node",
            id,
            name,
            {"signal": signal, "reason": str(case.fact("message") or case.fact("reason") or "")},
        )
    ]
    if raylet:
        blamed.append(
            Blamed(
                "process",
                str(raylet.facts["pid"]),
                f"{raylet.facts['role']} {raylet.facts['pid']}",
                {"pid": raylet.facts["pid"], "signal": signal},
            )
        )
    return Claim(
        blamed=blamed,
        title=f"node {name} was lost".replace("node node ", "node "),
        sentence=f"Ray node {name} is gone: {how}".replace("node node ", "node ") + (f"; {effect}" if effect else "") + ".",
        action=[
            f"look at the machine of {name}: was it preempted, rebooted, out of memory, or was its raylet killed"
            + (f" (pid {raylet.facts['pid']}, {signal or 'exit code ' + str(raylet.facts.get('code'))})" if raylet else ""),
            "the head holds the cluster's state: start the cluster again" if head else "start the node again with `ray start --address=…`; tasks with retries left go on by themselves",
        ],
        score=0.96 if gone else 0.8,
        decisive=tuple(gone[:2] or lost[:1]),
        key=id,
        ripe=bool(gone) or ctx.since(case) >= 2,
        impact=effect,
    )  # fmt: skip


def object_lost(case: Case, ctx: Context) -> Claim | None:
    """An object is lost, and no death that was seen explains it."""
    lost = case.all("task.lost_object")
    if not lost or case.all("worker.died", "actor.died", "worker.out_of_memory", *_GONE):
        return None
    first = lost[0]
    id, owner = str(case.fact("object") or ""), str(case.fact("owner") or "")
    function = str(case.fact("function") or "")
    blamed = [Blamed("object", id or "unknown", f"object {id[:16]}" if id else "an object", {"owner": owner})]
    if owner:
        blamed.append(Blamed("process", owner, f"worker {owner[:8]}", {"worker": owner}))
    return Claim(
        blamed=blamed,
        title="an object was lost" + (f" that {function} needs" if function else ""),
        sentence=f"{first.name[:1].upper()}{first.name[1:]} could not get an object that it needs: {case.fact('message') or 'it is lost'}"
        + (f" It belonged to worker {owner[:8]}, which has ended." if owner else ""),
        action=[
            "keep the owner alive as long as its objects are needed: an object from ray.put dies with the process that put it",
            "let tasks return the data instead of putting it, so that Ray can make it again (max_retries)",
        ],
        score=0.6,
        decisive=(first,),
        key=id or owner or function,
        ripe=ctx.failed is not None or (ctx.stalled and ctx.since(case) >= 10),
        impact=f"{times(sum(one.count for one in lost), 'task', 'tasks')} failed",
    )


def runtime_env_failed(case: Case, ctx: Context) -> Claim | None:
    """Ray could not make the environment that a task or actor asks for."""
    failed = case.all("task.no_environment")
    if not failed:
        return None
    first = failed[0]
    function = str(case.fact("function") or "")
    reason = str(case.fact("reason") or "")
    calls = str(case.fact("calls") or "")
    actor = next(iter(case.linked("actor")), "")
    class_name = (ctx.roster.actor(actor).class_name if actor else "") or function.partition(".")[0]
    kind, id, name = (
        "task",
        first.entity.partition("/")[2] if first.entity.startswith("task/") else "",
        function,
    )
    if actor:
        kind, id, name = "actor", actor, class_name
    called = f"{kind} {name}" if name else "a task"
    return Claim(
        blamed=[Blamed(kind, id, name or "unknown", {"reason": reason})],
        title=f"the environment of {called} could not be made",
        sentence=f"Ray could not set up the runtime_env of {called}: {reason}.".replace("..", "."),
        action=[
            f"fix runtime_env{f' at {calls}' if calls else ''}: {reason}",
            "try it alone: pip install the same packages, or open the same path or URL, on a node",
        ],
        score=0.95,
        decisive=(first,),
        key=f"environment/{name}",
        ripe=ctx.failed is not None or ctx.since(case) >= 1,
        impact=f"{times(sum(one.count for one in failed), 'task', 'tasks')} could not start",
    )
