"""Memory that ran out: killed by Ray's memory monitor, or by the kernel."""

from __future__ import annotations

from math import ceil

from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Claim
from misstep.diagnosis.causes.subject import Subject, finality, size, subject
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.memory_growth import memory_growth
from misstep.diagnosis.observation import Observation
from misstep.diagnosis.raytext import GIB, MemoryKill, Victim

_KILLED = ("worker.out_of_memory", "task.out_of_memory")


def ray_oom_kill(case: Case, ctx: Context) -> Claim | None:
    """Ray's memory monitor killed workers; blamed is the one that used the memory, which is not always the one killed."""
    killed = case.all(*_KILLED)
    if not killed:
        return None
    kill: MemoryKill | None = case.fact("kill", *_KILLED)
    culprit, innocent = _culprit(kill)
    workers = [one for one in killed if one.kind == "worker.out_of_memory"]
    largest = max(workers, key=lambda one: (int(one.facts.get("used") or 0), one.entity), default=None)
    pid = culprit.pid if culprit else int(largest.facts["pid"]) if largest else 0
    worker = culprit.worker if culprit else str(largest.facts["worker"]) if largest else ""
    who = subject(
        case,
        ctx,
        pid=pid,
        worker=worker,
        function=culprit.name.split(".")[-1] if culprit and "." not in culprit.name else "",
    )
    if culprit and not who.name:
        who = who._replace(name=culprit.name)
    if not who.node and kill:
        who = who._replace(node=kill.node, node_name=ctx.roster.node_name(kill.node))
    at = min(one.ts for one in killed)
    growth = (
        memory_growth(ctx.window, who.pid, at, name=f"worker {who.pid}", entity=f"ray_worker/{who.worker}")
        if who.pid
        else None
    )
    peak = max(
        culprit.used if culprit else 0,
        int(growth.facts["peak"]) if growth else 0,
        int(largest.facts.get("used") or 0) if largest else 0,
    )
    tasks = case.all("task.out_of_memory")
    culprits = [one for one in workers if one.facts["worker"] == worker]
    return Claim(
        blamed=who.blame(memory=peak, pid=who.pid),
        title=f"{who.called} ran out of memory",
        sentence=_sentence(who, kill, growth, peak, innocent),
        action=_action(who, peak, kill, growth),
        score=0.99,
        decisive=tuple((culprits or workers or killed)[:1]),
        key=who.called,
        healed=bool(tasks) and all(one.facts.get("finished") for one in tasks),
        extra=(growth,) if growth else (),
        more=(f"misstep logs {who.kind}/{who.name}",) if who.name else (),
    )


def _culprit(kill: MemoryKill | None) -> tuple[Victim | None, Victim | None]:
    """The process that used the memory, and the worker killed in its place if that is another."""
    if kill is None or not kill.victims:
        return None, None
    victim = max(kill.victims, key=lambda one: (one.used, one.pid))
    for pid, used, command in kill.users:
        if (
            command.startswith("ray::")
            and used > 2 * victim.used
            and pid not in {one.pid for one in kill.victims}
        ):
            return Victim(command.removeprefix("ray::").split("(")[0].strip(), pid, used, ""), victim
    return victim, None


def _sentence(
    who: Subject, kill: MemoryKill | None, growth: Observation | None, peak: int, innocent: Victim | None
) -> str:
    node = who.node_name or "its node"
    at = f" ({who.calls})" if who.calls else ""
    if innocent is not None:
        text = f"Ray's memory monitor killed worker {innocent.pid} ({innocent.name}) on {node}, but the memory is held by {who.called}{at}, worker {who.pid}, with {size(peak)}"
    elif growth is not None and growth.facts["rate"] > 1e6:
        text = (
            f"Ray's memory monitor killed {who.where}: {who.called}{at} grew by {size(growth.facts['rate'])}/s "
            f"to {size(peak)} in {growth.facts['seconds']:.0f} s"
        )
    else:
        text = (
            f"Ray's memory monitor killed {who.where}: {who.called}{at} used {size(peak)}"
            if peak
            else f"Ray's memory monitor killed {who.where}, which ran {who.called}"
        )
    if kill is not None and kill.limit:
        text += f", and the node stood at {100 * kill.used / kill.limit:.0f} % of {size(kill.limit)} (the limit is {kill.percent:.0f} %)"
    return text + "."


def _action(who: Subject, peak: int, kill: MemoryKill | None, growth: Observation | None) -> list[str]:
    need = max(1, ceil(peak * 1.1 / GIB)) if peak else 0
    first = (
        f"@ray.remote(memory={need} * 1024**3) on {who.name or 'the task'}, so that Ray starts no more of them than fit"
        if need
        else "declare memory=… on the task"
    )
    steps = [first + (f"; or smaller batches at {who.calls}" if who.calls else ", or smaller batches in it")]
    if growth is not None and growth.facts["rate"] > 1e6:
        steps.append(
            f"look for what it keeps: it still grew by {size(growth.facts['rate'])}/s when it was killed"
        )
    return steps


def kernel_oom_kill(case: Case, ctx: Context) -> Claim | None:
    """The kernel's OOM killer chose a process of the workload."""
    killed = case.all("kernel.oom_kill")
    if not killed:
        return None
    first = killed[0]
    pid = int(first.facts["pid"])
    driver = next((outcome for outcome in ctx.outcomes if outcome.pid == pid), None)
    who = subject(case, ctx, pid=pid)
    if driver is not None:
        who = Subject("job", driver.job, driver.name, pid, "", who.node, who.node_name, "")
    growth = memory_growth(ctx.window, pid, first.ts, name=f"process {pid}", entity=first.entity)
    peak = int(growth.facts["peak"]) if growth else 0
    final, healed = finality(case, ctx)
    grew = f" after it had grown by {size(growth.facts['rate'])}/s to {size(peak)}" if growth else ""
    limited = "cgroup" in str(first.facts.get("line", "")).lower()
    return Claim(
        blamed=who.blame(memory=peak, signal="SIGKILL"),
        title=f"{who.called} was killed by the kernel for want of memory",
        sentence=f"The kernel's OOM killer killed {who.where}, which ran {who.called}{grew}."
        + (" It hit the limit of its cgroup, not of the machine." if limited else ""),
        action=[
            f"give {'its cgroup (container) a higher limit' if limited else 'the machine more memory'}, or run fewer of {who.name or 'these'} at a time"
            + (f": memory={max(1, ceil(peak * 1.1 / GIB))} * 1024**3 on it makes Ray count" if peak else ""),
            "let Ray's memory monitor act first: a RAY_memory_usage_threshold below what the kernel allows",
        ],
        score=0.97,
        decisive=(first,),
        key=who.called,
        ripe=final or driver is not None or bool(ctx.failed) or ctx.since(case) >= 1,
        healed=healed,
        extra=(growth,) if growth else (),
    )
