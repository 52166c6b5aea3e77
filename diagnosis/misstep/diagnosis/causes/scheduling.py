"""Work that cannot be placed: nobody has what it asks for, or somebody holds it and will not let go."""

from __future__ import annotations

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.causes.subject import times
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.placement import HELD, amounts
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
    """Everything that fits is held by actors that do nothing, or by those who wait for the waiting."""
    told = case.first("placement.held")
    if told is None:
        return None
    facts = told.facts
    asked, holders, nodes = dict(facts["asked"]), facts["holders"], facts["nodes"]
    name, kind = told.name.partition(" ")[2], told.name.partition(" ")[0]
    total = {resource: sum(r.get(resource, 0.0) for _, r in nodes) for resource in asked}
    who = ", ".join(
        f"{times(count, holder, holder + 's') if count > 1 else holder} ({amounts({k: v for k, v in held.items() if k in asked})})"
        for holder, count, held, _ in holders
    )
    first = holders[0]
    nested = bool(facts["nested"])
    doing = "which wait for it in turn" if nested else "which sit idle and keep them"
    id = str(facts.get("actor") or "") if kind == "actor" else told.entity.partition("/")[2]
    holder_kind, holder_name = first[0].partition(" ")[0], first[0].partition(" ")[2]
    return Claim(
        blamed=[
            Blamed(
                kind, id, name, {"asked": asked, "waiting": facts["waiting"], "tasks": list(facts["tasks"])}
            ),
            Blamed(holder_kind, str(first[3]), holder_name, {"holds": dict(first[2]), "count": first[1]}),
        ],
        title=f"{told.name} waits for {amounts(asked)} that {first[0]} holds",
        sentence=f"{times(facts['waiting'], 'task or actor has', 'tasks or actors have')} waited for more than {HELD // SECOND} s, {told.name} first, for {amounts(asked)}; the cluster's {amounts(total)} "
        f"{'is' if len(total) == 1 else 'are'} held by {who}, {doing}. Nothing has moved since.",
        action=[
            f"let {first[0]} hold less (num_cpus=0 if it only waits), or start fewer of them"
            if not nested
            else f"give the waiting parent nothing that the child needs: num_cpus=0 on {holder_name}",
            f"or add a node with {amounts(asked)}",
        ],
        score=0.85,
        decisive=(told,),
        key=told.name,
        impact=f"{times(facts['waiting'], 'task waits', 'tasks wait')}",
    )


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
