"""GPUs that fail: lost, with broken memory, cut off from each other, stopped, or slowed by heat."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from misstep.diagnosis import xids
from misstep.diagnosis.case import Case
from misstep.diagnosis.catalogue import Blamed, Claim
from misstep.diagnosis.causes.subject import subject
from misstep.diagnosis.context import Context
from misstep.diagnosis.detectors.gpus import FAULTS, THROTTLED, Gpu, Hold
from misstep.diagnosis.observation import Observation
from misstep.diagnosis.window import SECOND

_HEAD_START = {xids.LOST: 5 * SECOND, xids.MEMORY: 2 * SECOND}
"""A GPU that goes takes its links and its driver with it, and these may be told of first."""
_DEATHS = ("rank.ended", "rank.raised", "worker.died", "actor.died", "task.lost_worker", "gpu.holder_ended")
_SLACK = 2 * SECOND


def lost(case: Case, ctx: Context) -> Claim | None:
    """A GPU is gone from the bus, or the driver cannot reach it any more."""
    told = _first(case, xids.LOST)
    if told is None:
        return None
    gpu: Gpu = told.facts["gpu"]
    xid = _xid(case, xids.LOST)
    how = f"fell off the bus (Xid {xid})" if xid == 79 else "was lost"
    return _claim(
        case, ctx, told,
        title=f"{gpu.name} of {gpu.host or 'its host'} was lost" + (f" (Xid {xid})" if xid else ""),
        sentence=f"{_full(gpu)} {how}: the driver cannot reach it any more.",
        action=[
            f"take {gpu.host or 'the host'} out of service and restart the machine: a GPU that fell off the bus comes back with a restart at the earliest",
            "start the job again without it; a GPU that is lost twice has a fault of its board, slot or power: replace it",
        ],
        score=0.99,
    )  # fmt: skip


def memory_error(case: Case, ctx: Context) -> Claim | None:
    """GPU memory gave data that could not be corrected, or a bad row of it could not be replaced."""
    told = _first(case, xids.MEMORY)
    if told is None:
        return None
    gpu: Gpu = told.facts["gpu"]
    xid = _xid(case, xids.MEMORY)
    failed = any("could not be replaced" in one.statement for one in case.all(xids.MEMORY))
    reset = f"reset it when it is idle: nvidia-smi --gpu-reset -i {gpu.number or gpu.pci}"
    return _claim(
        case, ctx, told,
        title=f"uncorrectable memory error on {gpu.name} of {gpu.host or 'its host'}" + (f" (Xid {xid})" if xid else ""),
        sentence=f"{_full(gpu)} {told.statement}; its memory gave data that could not be corrected" + (", and a bad row could not be replaced." if failed else "."),
        action=[
            "replace the GPU: no spare row is left for the bad one" if failed else reset + "; the reset replaces the bad row",
            "start the job again from its last checkpoint: what this GPU computed since the error is not to be trusted",
        ],
        score=0.99,
    )  # fmt: skip


def link_error(case: Case, ctx: Context) -> Claim | None:
    """An NVLink failed."""
    told = _first(case, xids.LINK)
    if told is None:
        return None
    gpu: Gpu = told.facts["gpu"]
    xid = _xid(case, xids.LINK)
    others = sorted({one.facts["gpu"].name for one in case.all(xids.LINK)} - {gpu.name})
    peers = f" {', '.join(others)} reported it later, and may only be the other end." if others else ""
    return _claim(
        case, ctx, told,
        title=f"an NVLink of {gpu.name} of {gpu.host or 'its host'} failed" + (f" (Xid {xid})" if xid else ""),
        sentence=f"{_full(gpu)} {told.statement}, so what the GPUs send each other over NVLink fails.{peers}",
        action=[
            f"look at its links: nvidia-smi nvlink -s -i {gpu.number or gpu.pci} and nvidia-smi nvlink -e -i {gpu.number or gpu.pci}",
            "reset all GPUs of the machine together; if it comes back, the GPU, its baseboard or the NVSwitch is to be replaced",
        ],
        score=0.985,
    )  # fmt: skip


def stopped(case: Case, ctx: Context) -> Claim | None:
    """The GPU or its system processor stopped, or calls of the driver do not return."""
    told = _first(case, xids.STOPPED)
    if told is None:
        return None
    gpu: Gpu = told.facts["gpu"]
    xid = _xid(case, xids.STOPPED)
    return _claim(
        case, ctx, told,
        title=f"{told.name} of {gpu.host or 'its host'} stopped" + (f" (Xid {xid})" if xid else ""),
        sentence=f"{_full(gpu) if gpu.number or xid else 'The NVIDIA driver of ' + (gpu.host or 'the host')} {told.statement}.",
        action=[
            f"reset it: nvidia-smi --gpu-reset -i {gpu.number or gpu.pci}; where that hangs too, restart the machine",
            "keep the driver's report for NVIDIA before that: nvidia-bug-report.sh",
        ],
        score=0.985 if xid else 0.97,
    )  # fmt: skip


def throttled(case: Case, ctx: Context) -> Claim | None:
    """Heat or the power supply keeps a GPU's clocks low."""
    told = case.first(THROTTLED)
    if told is None or case.all(*FAULTS):
        return None
    gpu: Gpu = told.facts["gpu"]
    reason = str(told.facts["reason"])
    heat = "thermal" in reason
    return _claim(
        case, ctx, told,
        title=f"{gpu.name} of {gpu.host or 'its host'} is slowed by {'heat' if heat else 'its power supply'}",
        sentence=f"{_full(gpu)} ran with lowered clocks for most of the last 10 s ({reason}); whoever waits for it is as slow.",
        action=[
            "look at the cooling: fans, air flow, dust, the temperature of the inlet air" if heat else "look at the power supplies of the machine and their redundancy",
            f"compare it with its neighbours: misstep query 'max by (hw_gpu_index) (hw_temperature_celsius)', nvidia-smi -q -d PERFORMANCE -i {gpu.number or gpu.pci}",
        ],
        score=0.6,
        impact="the job runs slower",
    )  # fmt: skip


# -- shared ----------------------------------------------------------------------------------------------
def _first(case: Case, kind: str) -> Observation | None:
    """The first observation of a kind, if that kind is what it began with, and before anybody died."""
    faults = case.all(*FAULTS)
    if not faults:
        return None
    begin = min(
        faults, key=lambda one: (one.ts - _HEAD_START.get(one.kind, 0), FAULTS.index(one.kind), one.order)
    )
    if begin.kind != kind:
        return None
    first = next(one for one in case.all(kind) if one.entity == begin.entity)
    dead = [one.ts for one in case.all(*_DEATHS)]
    return (
        None
        if dead and min(dead) < first.ts - _SLACK - 10 * SECOND * (not first.facts["by_kernel"])
        else first
    )


def _claim(
    case: Case, ctx: Context, told: Observation, *, title: str, sentence: str, action: list[str], score: float,
    impact: str = "",
) -> Claim:  # fmt: skip
    gpu: Gpu = told.facts["gpu"]
    holds: tuple[Hold, ...] = told.facts["holds"]
    decisive = [one for one in case.all(told.kind) if one.entity == told.entity]
    whose, named = _holders(case, ctx, holds)
    if named:
        title += f"; {named} held it"
        sentence += f" {whose}"
    about: dict[str, Any] = {
        "index": gpu.number, "uuid": gpu.uuid, "pci": gpu.pci, "model": gpu.model, "host": gpu.host, "xid": _xid(case, told.kind),
    }  # fmt: skip
    return Claim(
        blamed=[
            Blamed(
                "gpu" if told.entity.startswith("gpu/") else "host",
                told.entity.partition("/")[2],
                (gpu.number or gpu.pci) if told.entity.startswith("gpu/") else gpu.host,
                {key: value for key, value in about.items() if value},
            ),
            *_blamed(case, ctx, holds),
        ],
        title=title,
        sentence=sentence,
        action=action,
        score=score,
        decisive=tuple(decisive[:4]),
        key=told.entity,
        healed=all(one.facts.get("over") for one in decisive) and not case.all(*_DEATHS),
        impact=impact,
        more=("misstep logs --events --grep Xid",) if _xid(case, told.kind) else (),
    )  # fmt: skip


def _xid(case: Case, kind: str) -> int:
    return int(case.fact("xid", kind) or 0)


def _full(gpu: Gpu) -> str:
    about = ", ".join(part for part in (gpu.model, f"PCI {gpu.pci}" if gpu.pci else "", gpu.uuid) if part)
    return f"{gpu.name} ({about})" + (f" of {gpu.host}" if gpu.host else "")


def _called(ctx: Context, hold: Hold) -> str:
    for member in ctx.team.members.values() if ctx.team is not None else ():
        if member.pid == hold.pid:
            return member.name
    return hold.name


def _holders(case: Case, ctx: Context, holds: tuple[Hold, ...]) -> tuple[str, str]:
    """A sentence on who held the GPU since when, and their names."""
    parts, called = [], []
    for hold in holds[:3]:
        who = _subject(case, ctx, hold)
        name = who.called if who is not None and who.name else _called(ctx, hold)
        since = datetime.fromtimestamp(hold.since / SECOND, UTC).strftime("%H:%M:%S")
        pod = f", pod {hold.pod}" if hold.pod else ""
        parts.append(f"{name} (pid {hold.pid}{pod}) held it since {since} UTC")
        called.append(name)
    if not parts:
        return "", ""
    text = "; ".join(parts)
    rest = f"; so did {len(holds) - 3} other processes" if len(holds) > 3 else ""
    return f"{text[:1].upper()}{text[1:]}{rest}.", ", ".join(dict.fromkeys(called))


def _subject(case: Case, ctx: Context, hold: Hold) -> Any:
    """The task or actor of a holder that is a worker of Ray."""
    if not ctx.roster.nodes or ctx.roster.worker_of(hold.pid, case.onset) is None:
        return None
    return subject(case, ctx, pid=hold.pid)


def _blamed(case: Case, ctx: Context, holds: tuple[Hold, ...]) -> list[Blamed]:
    found: list[Blamed] = []
    for hold in holds[:3]:
        who = _subject(case, ctx, hold)
        if who is not None and (who.name or who.id):
            found += who.blame()
            continue
        for member in ctx.team.members.values() if ctx.team is not None else ():
            if member.pid == hold.pid:
                found.append(
                    Blamed(
                        "rank",
                        member.entity.partition("/")[2],
                        str(member.number),
                        {"pid": hold.pid, "host": member.host},
                    )
                )
        found.append(
            Blamed(
                "process",
                hold.process.partition("/")[2] or str(hold.pid),
                f"pid {hold.pid}",
                {"pid": hold.pid, "command": hold.title},
            )
        )
    return found
