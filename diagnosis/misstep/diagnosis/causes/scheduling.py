"""Work that cannot be placed: nobody has what it asks for, or somebody holds it and will not let go."""

from __future__ import annotations

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.causes.subject import times
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.placement import HELD, Holder, amounts
from misstep.diagnosis.window import SECOND


def infeasible_resources(case: Case, ctx: Context) -> Claim | None:
    """A task or actor asks for more than any node of the cluster has."""
    waits = case.first("placement.infeasible")
    refused = case.first("task.unschedulable")
    told = waits or refused
    if told is None:
        return None
    facts = told.facts
    asked = dict(facts.get("asked") or facts.get("resources") or {})
    lacking = tuple(facts.get("lacking") or ())
    nodes = tuple(
        facts.get("nodes")
        or tuple((node.name, node.resources) for node in ctx.roster.nodes.values() if not node.ended)
    )
    name = told.name.partition(" ")[2]
    kind = str(facts.get("kind") or told.name.partition(" ")[0])
    have = (
        "; ".join(f"{node} has {_relevant(resources, asked)}" for node, resources in nodes[:4])
        or "no node is known"
    )
    more = f"; and {len(nodes) - 4} more nodes" if len(nodes) > 4 else ""
    wants = amounts({key: asked[key] for key in lacking}) if lacking else amounts(asked)
    attributes = {
        "asked": asked,
        "lacking": list(lacking),
        "resource": lacking[0] if lacking else "",
        "tasks": list(facts.get("tasks", ())),
        "calls": facts.get("calls", ""),
    }
    id = (
        str(facts.get("actor") or "")
        if kind == "actor"
        else told.entity.partition("/")[2]
        if told.entity.startswith("task/")
        else ""
    )
    count = told.count
    blamed = [Blamed(kind, id, name, {key: value for key, value in attributes.items() if value})]
    blamed += [
        Blamed(
            "resource",
            resource,
            resource,
            {
                "asked": asked.get(resource, 0.0),
                "most": max((r.get(resource, 0.0) for _, r in nodes), default=0.0),
            },
        )
        for resource in lacking
    ]
    reason = f" Ray says: {facts['reason']}" if facts.get("reason") else ""
    return Claim(
        blamed=blamed,
        title=f"{told.name} asks for what no node has: {wants}",
        sentence=f"{told.name[:1].upper()}{told.name[1:]} needs {amounts(asked)}, and no node can ever give {wants}: {have}{more}.{reason}"
        + (f" {times(count, 'call waits', 'calls wait')}." if count > 1 else " It waits for ever."),
        action=[_advice(name, asked, lacking, nodes), f"or start a node that offers it: ray start --address=… {_flag(asked, lacking)}"],
        score=0.95,
        decisive=(told,),
        key=told.name,
        impact=f"{times(count, 'task waits', 'tasks wait')} for ever",
    )  # fmt: skip


def resources_held(case: Case, ctx: Context) -> Claim | None:
    """What fits is held by actors that do nothing, by placement groups, or by those who wait for the waiting."""
    told = case.first("placement.held")
    if told is None:
        return None
    facts = told.facts
    asked, nodes = dict(facts["asked"]), facts["nodes"]
    holders: tuple[Holder, ...] = facts["holders"]
    first = holders[0]
    scarce = facts["scarce"]
    total = {resource: sum(r.get(resource, 0.0) for _, r in nodes) for resource in scarce}
    who = ", ".join(
        f"{_many(holder)} ({amounts({k: v for k, v in holder.holds.items() if k in scarce})})"
        for holder in holders
    )
    doing = {
        "waits": "which wait for it in turn" if _plural(holders) else "which waits for it in turn",
        "idle": "which sit idle and keep them" if _plural(holders) else "which sits idle and keeps it",
        "reserved": "which keeps them reserved until it is removed, whether anything runs in it or not",
    }[first.how]
    name = told.name.partition(" ")[2] if facts["kind"] != "group" else told.name
    attributes = {
        "asked": asked,
        "waiting": facts["waiting"],
        "tasks": list(facts["tasks"]),
        "groups": list(facts["groups"]),
    }
    waiter = Blamed(
        facts["kind"], str(facts["id"]), name, {key: value for key, value in attributes.items() if value}
    )
    blamed = [
        Blamed(one.kind, one.id, one.name, {"holds": dict(one.holds), "count": one.number}) for one in holders
    ]
    if (blamed[0].kind, blamed[0].name) == (waiter.kind, waiter.name):
        blamed[0] = Blamed(*waiter[:3], blamed[0].attributes | waiter.attributes)
    else:
        blamed.insert(1, waiter)
    return Claim(
        blamed=blamed,
        title=f"{_many(first)} {'hold' if first.number > 1 else 'holds'} {amounts({k: v for k, v in first.holds.items() if k in scarce})} that {told.name} waits for",
        sentence=f"{times(facts['waiting'], 'task or actor has', 'tasks or actors have')} waited for more than {HELD // SECOND} s, {told.name} first, for {amounts(asked)}; the cluster's {amounts(total)} "
        f"{'is' if sum(total.values()) <= 1 else 'are'} held by {who}, {doing}. Nothing has moved since.",
        action=[
            _release(first, told.name, scarce),
            f"or add a node with {amounts(asked)}",
        ],
        score=0.85,
        decisive=(told,),
        key=told.name,
        impact=f"{times(facts['waiting'], 'task waits', 'tasks wait')}",
    )  # fmt: skip


def _many(holder: Holder) -> str:
    return times(holder.number, holder.called, f"{holder.called}s") if holder.number > 1 else holder.called


def _plural(holders: tuple[Holder, ...]) -> bool:
    return len(holders) > 1 or holders[0].number > 1


def _release(holder: Holder, waiter: str, scarce: tuple[str, ...]) -> str:
    """What to change on the holder."""
    if holder.how == "waits":
        none = "num_cpus=0" if scarce == ("CPU",) else f"no {' and no '.join(scarce)}"
        return f"give the waiting parent nothing that the child needs: {none} on {holder.name}"
    if holder.how == "reserved":
        return (
            f"run {waiter} inside the group (PlacementGroupSchedulingStrategy), reserve less in it, "
            "or remove the group when its work is done (ray.util.remove_placement_group)"
        )
    return f"let {holder.called} hold less (num_cpus=0 if it only waits), start fewer of them, or ray.kill what is done"


def _relevant(resources: dict[str, float], asked: dict[str, float]) -> str:
    """What a node offers of what is asked, and what else it has a name for."""
    told = {key: resources.get(key, 0.0) for key in asked}
    custom = {
        key: value
        for key, value in resources.items()
        if key not in told and ":" not in key and key not in ("memory", "object_store_memory")
    }
    return amounts(told | custom)


def _advice(
    name: str,
    asked: dict[str, float],
    lacking: tuple[str, ...],
    nodes: tuple[tuple[str, dict[str, float]], ...],
) -> str:
    offered = sorted({key for _, resources in nodes for key in resources if ":" not in key})
    for resource in lacking:
        most = max((resources.get(resource, 0.0) for _, resources in nodes), default=0.0)
        if most:
            return f"ask for at most {most:g} {resource} on {name}, for example {_option(resource, most)}"
        near = [
            other
            for other in offered
            if other.lower() == resource.lower() or other.lower().startswith(resource.lower()[:4])
        ]
        if near:
            return f"no node has a resource called {resource}; there is {', '.join(near)}: correct the name on {name}"
        return f"drop {resource} ({asked.get(resource, 0):g}) from {name}: no node has any"
    return f"ask for less on {name}"


def _option(resource: str, amount: float) -> str:
    named = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}.get(resource)
    return f"{named}={amount:g}" if named else f"resources={{'{resource}': {amount:g}}}"


def _flag(asked: dict[str, float], lacking: tuple[str, ...]) -> str:
    resource = lacking[0] if lacking else next(iter(asked), "CPU")
    named = {"CPU": "--num-cpus", "GPU": "--num-gpus", "memory": "--memory"}.get(resource)
    amount = asked.get(resource, 1.0)
    return f"{named}={amount:g}" if named else f"--resources='{{\"{resource}\": {amount:g}}}'"
