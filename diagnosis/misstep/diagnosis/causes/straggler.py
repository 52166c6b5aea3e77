"""A rank that slows the whole job down."""

from __future__ import annotations

from typing import Any

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.context import Context

_IDLE, _BUSY = 0.5, 1.2
"""A process that uses so much less or more CPU than the others' waits for something, or has more to do."""
_PULSED = 0.03


def straggler(case: Case, ctx: Context) -> Claim | None:
    """One rank comes late in each step, and the others wait for it each time."""
    told = case.first("rank.late")
    if told is None:
        return None
    facts = told.facts
    lag = facts["lag"]
    does, action = _doing(facts)
    at = f" It was found in {facts['function']} ({facts['place']})." if facts["place"] else ""
    attributes = {"pid": facts["pid"], "host": facts["host"], "place": facts["place"], "path": facts["path"]}
    process = str(facts["process"]).partition("/")[2]
    return Claim(
        blamed=[
            Blamed("rank", told.entity.partition("/")[2], str(facts["rank"]), attributes),
            Blamed("process", process or str(facts["pid"]), f"pid {facts['pid']}", {"pid": facts["pid"]}),
        ],
        title=f"{told.name} is slow: the others wait {lag} for it in each step" + (f" ({facts['function']}, {facts['place']})" if facts["place"] else ""),
        sentence=f"{told.name.capitalize()} ({facts['where']}) comes {lag} late to {facts['call']} in each step, and not because another rank kept it: {facts['share']:.0%} of the job's time goes by in waiting for it.{at}{does}",
        action=[*action, f"see where its time goes: misstep profile rank/{facts['rank']} --seconds 10"],
        score=0.9,
        decisive=(told,),
        key=told.name,
        impact=f"every step takes {lag} longer than its other ranks need",
        more=(f"misstep profile rank/{facts['rank']} --seconds 10",),
        lasting=True,
    )  # fmt: skip


def _doing(facts: Any) -> tuple[str, list[str]]:
    """What its process did meanwhile, and what follows from that."""
    cores, usual = facts["cores"], facts["usual_cores"]
    if facts["stopped"] >= _PULSED:
        return (
            f" Its process was stopped by a signal (state T) in {facts['stopped']:.0%} of the looks at it.",
            [
                "find who stops it and lets it go on: a debugger, a batch system, a tool that limits CPU with SIGSTOP"
            ],
        )
    if facts["throttled"]:
        return (
            f" The CPU limit of its cgroup held its tasks back for {facts['throttled']:.2f} s of each second.",
            ["raise the CPU limit of its container, or give each rank the same"],
        )
    if cores is None or usual is None:
        return "", []
    told = f" Its process used {cores:.2f} of a core, the others' {usual:.2f}."
    if cores > _BUSY * usual:
        return told, ["it computes more than the others: more data, longer samples, work of its own (logging, checks) or a slower path"]  # fmt: skip
    if cores < _IDLE * usual:
        return told, ["it waits for something: a file system, a queue, a lock, a sleep; or it gets less CPU than the others"]  # fmt: skip
    return told, [
        "compare its host with the others': clocks, other load, memory pressure, a slower disk or GPU"
    ]
