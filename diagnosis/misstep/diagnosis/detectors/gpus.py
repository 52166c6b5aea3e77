"""GPUs that failed under a session: which one, what the driver and the kernel said of it, and who held it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from misstep.core import names
from misstep.diagnosis import xids
from misstep.diagnosis.detectors.deaths import process_link
from misstep.diagnosis.detectors.processes import ending, manner
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.team import Team
from misstep.diagnosis.window import SECOND, Window
from misstep.store.rows import LogRow

FAULTS = (xids.LOST, xids.MEMORY, xids.LINK, xids.STOPPED)
"""Kinds of observations that a GPU's fault is."""
THROTTLED = "gpu.throttled"
ENDED = "gpu.holder_ended"

_BEFORE, _AFTER = 2 * SECOND, 30 * SECOND
"""A fault is a session's when it comes in the time in which one of its processes held the GPU; lists of processes are read every 10 s."""
_WAKE = 120 * SECOND
_EVENTS = {
    "unavailable": (xids.LOST, "says that the GPU is unavailable"),
    "ecc_uncorrected": (xids.MEMORY, "counts an uncorrectable ECC error"),
    "remap_failed": (xids.MEMORY, "says that a bad memory row could not be replaced"),
    "poison": (xids.MEMORY, "says that poisoned data was read"),
    "nvlink_down": (xids.LINK, "sees an NVLink down"),
}
_STATES = {
    "lost": (xids.LOST, "does not answer the driver any more"),
    "reset_required": (xids.STOPPED, "must be reset"),
    "unresponsive": (xids.STOPPED, "makes the driver hang"),
}


class Hold(NamedTuple):
    """A process of the session and the GPU that it held; `until` is 0 while it holds it."""

    gpu: str
    pid: int
    process: str
    rank: str
    title: str
    host: str
    since: int
    until: int
    row: LogRow

    @property
    def name(self) -> str:
        """``rank 3``, or the process by its title."""
        return f"rank {self.rank}" if self.rank else f"process {self.pid}"

    @property
    def pod(self) -> str:
        """``namespace/name``, else its uid; empty outside of pods."""
        held = self.row.attributes
        known = "/".join(filter(None, (held.get(names.NAMESPACE), held.get(names.POD_NAME))))
        return known or held.get(names.POD, "")


class Gpu(NamedTuple):
    """A GPU by what was told of it."""

    entity: str
    number: str
    uuid: str
    pci: str
    model: str
    host: str

    @property
    def name(self) -> str:
        """``GPU 3`` as nvidia-smi counts, else by its address."""
        return f"GPU {self.number or self.pci}"


def observe(window: Window, roster: Roster, team: Team) -> list[Observation]:
    """Faults of the GPUs that the session's processes held, and the ends of these processes."""
    holds = _holds(window)
    entities = sorted({hold.gpu for hold in holds})
    if not entities:
        return []
    rows = window.rows(
        "hw.gpu.state", "hw.gpu.event", "hw.gpu.xid", entities=entities, since=window.since, everywhere=True
    )
    hosts = sorted({hold.row.resource.get(names.HOST_ID, "") for hold in holds} - {""})
    rows = rows + window.rows(
        "hw.gpu.driver", entities=[f"host/{host}" for host in hosts], states=("unresponsive",),
        since=window.since, everywhere=True,
    )  # fmt: skip
    found: dict[tuple[str, ...], Observation] = {}
    gpus = _gpus(window, entities) if rows else {}
    for row in rows:
        _recover(found, row)
        told = _told(row)
        mine = [hold for hold in holds if hold.gpu == row.entity or row.event == "hw.gpu.driver"]
        mine = [hold for hold in mine if _held(hold, row.ts)]
        if told is None or not mine:
            continue
        kind, statement, facts = told
        gpu = gpus.get(row.entity) or gpus[mine[0].gpu]
        if row.event == "hw.gpu.driver":
            gpu = gpu._replace(number="", entity=row.entity)
        key = (row.entity, kind, statement)
        known = found.get(key)
        found[key] = _observation(window, roster, team, row, gpu, mine, kind, statement, facts, known)
    onset = min((one.ts for one in found.values() if one.kind in FAULTS), default=0)
    return [*found.values(), *(_ends(window, team, roster, holds, onset) if onset else ())]


def _recover(found: dict[tuple[str, ...], Observation], row: LogRow) -> None:
    """A GPU that is slowed no longer, or answers again: what was said of it is over."""
    ends = {"throttle_end": THROTTLED, "ok": xids.STOPPED}.get(row.state)
    for key, one in found.items():
        if (
            key[0] == row.entity
            and one.kind == ends
            and (ends != THROTTLED or one.facts["reason"] == _reason(row))
        ):
            found[key] = replace(one, facts={**one.facts, "over": True})


def _reason(row: LogRow) -> str:
    return row.attributes.get(names.GPU_REASON, "").replace("_", " ")


def _holds(window: Window) -> list[Hold]:
    found: dict[tuple[str, str], Hold] = {}
    for row in window.rows("hw.gpu.process"):
        pid = row.attributes.get(names.PID, "")
        gpu = row.attributes.get(names.GPU_ENTITY, "")
        if row.state == "released":
            hold = found.get((gpu, pid))  # without a GPU the process gave back one of several instances of it
            if hold is not None and not hold.until:
                found[gpu, pid] = hold._replace(until=row.ts)
        elif gpu and pid.isdigit():
            known = found.get((gpu, pid))
            found[gpu, pid] = Hold(
                gpu, int(pid), row.entity, row.attributes.get(names.RANK, ""), row.attributes.get(names.PROCESS_TITLE, ""),
                row.resource.get(names.HOST_NAME, ""), min(row.ts, known.since) if known else row.ts, 0, row,
            )  # fmt: skip
    for row in window.rows("hw.gpu.xid"):
        pid = row.attributes.get(names.PID, "")
        if pid.isdigit() and row.entity and (row.entity, pid) not in found:
            # The kernel names the process itself, whether or not NVML could be read.
            found[row.entity, pid] = Hold(
                row.entity, int(pid), row.attributes.get(names.PROCESS_ENTITY, ""), "", row.attributes.get(names.PROCESS_TITLE, ""),
                row.resource.get(names.HOST_NAME, ""), row.ts, 0, row,
            )  # fmt: skip
    return list(found.values())


def _held(hold: Hold, at: int) -> bool:
    return hold.since - _BEFORE <= at and (not hold.until or at <= hold.until + _AFTER)


def _gpus(window: Window, entities: list[str]) -> dict[str, Gpu]:
    found = {entity: Gpu(entity, "", "", entity.rpartition("/")[2], "", "") for entity in entities}
    for row in window.rows("hw.gpu.found", entities=entities, everywhere=True):
        attributes = row.attributes
        found[row.entity] = Gpu(
            row.entity, attributes.get(names.GPU_INDEX, ""), attributes.get(names.GPU_UUID, ""), attributes.get(names.HW_ID, ""),
            attributes.get(names.HW_MODEL, ""), row.resource.get(names.HOST_NAME, ""),
        )  # fmt: skip
    return found


def _told(row: LogRow) -> tuple[str, str, dict[str, Any]] | None:
    """What a row says of its GPU: kind, statement, facts; None for what is no fault."""
    if row.event == "hw.gpu.xid" or (row.event == "hw.gpu.event" and row.state == "xid"):
        code = row.attributes.get(names.XID, "")
        xid = xids.read(int(code) if code.isdigit() else 0, row.body)
        if not xid.kind:
            return None
        return xid.kind, f"reports Xid {code}: {xid.meaning}", {"xid": int(code), "line": row.body[:300]}
    if row.event == "hw.gpu.event" and row.state == "throttled":
        return THROTTLED, f"lowers its clocks ({_reason(row)})", {"reason": _reason(row)}
    kind, statement = (_EVENTS if row.event == "hw.gpu.event" else _STATES).get(row.state, ("", ""))
    if not kind:
        return None
    if row.event == "hw.gpu.event":
        link = row.attributes.get(names.GPU_LINK, "")
        return kind, f"{statement}{f' (link {link})' if link else ''}", {}
    if row.state == "lost":
        kernel = bool(row.attributes.get(names.KERNEL_SEQUENCE))
        return kind, "has fallen off the bus" if kernel else statement, {}
    said = f": {row.body}" if row.state == "unresponsive" and row.body else ""
    return kind, f"{statement}{said.partition(' for ')[0]}", {}


def _observation(
    window: Window, roster: Roster, team: Team, row: LogRow, gpu: Gpu, holds: list[Hold],
    kind: str, statement: str, facts: dict[str, Any], known: Observation | None,
) -> Observation:  # fmt: skip
    links = {gpu.entity}
    for hold in holds:
        links |= _links(roster, team, hold, row.ts)
    kernel = bool(row.attributes.get(names.KERNEL_SEQUENCE))
    evidence = of_rows([row])
    if known is not None:
        return Observation(
            known.kind, known.entity, known.name, min(known.ts, row.ts), statement, known.source, known.links | links,
            {**known.facts, "over": False, "last": max(row.ts, int(known.facts.get("last", 0)))}, (*known.evidence, *evidence)[:3], known.count + 1,
        )  # fmt: skip
    return Observation(
        kind=kind, entity=gpu.entity, name=gpu.name if row.event != "hw.gpu.driver" else "the NVIDIA driver", ts=row.ts,
        statement=statement, source="kernel_log" if kernel else "gpu", links=frozenset(links),
        facts={**facts, "gpu": gpu, "holds": tuple(holds), "by_kernel": kernel}, evidence=evidence,
    )  # fmt: skip


def _links(roster: Roster, team: Team, hold: Hold, at: int) -> set[str]:
    """By what the observations of a holder's end are known."""
    for member in team.members.values():
        if member.pid == hold.pid:
            return {"training", f"rank/{member.number}"}
    worker = roster.worker_of(hold.pid, at) if roster.nodes else None
    if worker is None:
        return {process_link("", hold.pid)}
    node = roster.nodes.get(worker.node)
    found = {f"ray_worker/{worker.id}", process_link(node.ip if node else "", hold.pid)}
    actor = roster.actor_on(worker.id)
    return found | ({f"actor/{actor}"} if actor else set())


def _ends(window: Window, team: Team, roster: Roster, holds: list[Hold], onset: int) -> list[Observation]:
    """Ends of holders that nothing else tells: neither ranks of torch nor workers of Ray."""
    ranks = {member.pid for member in team.members.values()}
    found = []
    for hold in holds:
        if hold.pid in ranks or (roster.nodes and roster.worker_of(hold.pid, onset) is not None):
            continue
        for row in window.rows("process.exit", attributes={names.PID: str(hold.pid)}):
            signal, code = ending(row)
            if onset - SECOND <= row.ts <= onset + _WAKE and (signal or code):
                found.append(
                    Observation(
                        kind=ENDED, entity=row.entity, name=hold.name, ts=row.ts, statement=manner(row), source="process_exits",
                        links=frozenset({hold.gpu, process_link("", hold.pid)}), facts={"holder": hold.pid}, evidence=of_rows([row]),
                    )
                )  # fmt: skip
    return found
