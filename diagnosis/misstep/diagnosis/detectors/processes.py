"""How processes ended, and what the kernel says of it. Workers' ends are looked up for a case, never listed."""

from __future__ import annotations

from misstep.core import names
from misstep.diagnosis.detectors.deaths import process_link
from misstep.diagnosis.observation import Observation, of_rows
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.window import SECOND, Window, entity_id
from misstep.store.rows import LogRow

CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS", "SIGTRAP"})
"""Signals that a process brings on itself."""


def exits(window: Window, pid: int, *, since: int = 0, until: int | None = None) -> list[LogRow]:
    """Records of a process's end, whoever waited for it, oldest first."""
    found = window.rows("process.exit", "command.exit", attributes={names.PID: str(pid)}, since=since or None)
    return [row for row in found if until is None or row.ts <= until]


def ending(row: LogRow) -> tuple[str, int | None]:
    """The signal (or empty) and the exit code (or None) in the record of an end."""
    code = row.attributes.get(names.EXIT_CODE, "")
    return row.attributes.get(names.EXIT_SIGNAL, ""), int(code) if code.lstrip("-").isdigit() else None


def manner(row: LogRow) -> str:
    """How a process ended, in words."""
    signal, code = ending(row)
    if signal:
        return f"killed by {signal}"
    return f"exits with code {code}" if code is not None else "is gone, how is not known"


def exit_of(window: Window, pid: int, ip: str, around: int, *, name: str) -> Observation | None:
    """How the process of a case ended: the record nearest to a moment, within a few seconds."""
    near = [
        row
        for row in exits(window, pid)
        if row.event == "process.exit" and abs(row.ts - around) < 20 * SECOND
    ]
    if not near:
        return None
    row = min(
        near,
        key=lambda row: (
            row.state != "exited" and row.state != "killed",
            abs(row.ts - around),
            row.ts,
        ),
    )
    signal, code = ending(row)
    return Observation(
        kind="process.ended",
        entity=row.entity,
        name=name,
        ts=row.ts,
        statement=manner(row),
        source="process_exits",
        links=frozenset({process_link(ip, pid)}),
        facts={"pid": pid, "signal": signal, "code": code, "known": bool(signal) or code is not None},
        evidence=of_rows([row]),
    )


def kernel_of(window: Window, pid: int, around: int, *, name: str) -> list[Observation]:
    """What the kernel log says of a process near a moment."""
    found = []
    for row in window.rows(
        "kernel.oom_kill", "kernel.segfault", attributes={names.PID: str(pid)}, everywhere=True
    ):
        if row.session not in ("", window.session) or abs(row.ts - around) > 20 * SECOND:
            continue
        found.append(
            Observation(
                kind=row.event,
                entity=row.entity,
                name=name,
                ts=row.ts,
                statement="killed by the kernel for want of memory"
                if row.event == "kernel.oom_kill"
                else "makes an invalid memory access",
                source="kernel_log",
                facts={"pid": pid, "line": row.body[:300]},
                evidence=of_rows([row]),
            )
        )
    return found


def raylets(window: Window, roster: Roster) -> list[Observation]:
    """Raylets and head processes that ended otherwise than by being told to.

    Ray itself needs about 15 s to notice that a raylet is gone; its process tells at once.
    """
    found = []
    for row in window.rows(
        "process.exit", states=("killed", "exited"), since=window.since, limit=2000, newest=True
    ):
        role = role_of(window, row)
        if role not in ("raylet", "gcs"):
            continue
        signal, code = ending(row)
        if signal in ("SIGTERM", "SIGINT") or code == 0 or (code is not None and code in (15, 130, 143)):
            continue
        node = _node_of(window, roster, row)
        if role == "gcs":
            node = next((node.id for node in roster.nodes.values() if node.head), node)
        if not node or (not signal and node not in roster.nodes):
            continue  # without a signal, one that never joined failed to start
        found.append(
            Observation(
                kind="raylet.ended",
                entity=f"ray_node/{node}",
                name=f"node {roster.node_name(node)}".replace("node node ", "node "),
                ts=row.ts,
                statement=f"loses its {'raylet' if role == 'raylet' else 'head process (GCS)'}: {manner(row)}",
                source="process_exits",
                links=frozenset({f"ray_node/{node}"}),
                facts={
                    "node": node, "name": roster.node_name(node), "pid": int(row.attributes.get(names.PID, "0") or 0), "signal": signal, "code": code, "role": role,
                },
                evidence=of_rows([row]),
            )
        )  # fmt: skip
    return found


def role_of(window: Window, row: LogRow) -> str:
    """What part a process played: ``raylet``, ``gcs``, ``ray_worker``, ``ray_driver``, …, or empty."""
    role = row.attributes.get(names.PROCESS_ROLE, "")
    if role:
        return role
    for start in window.rows("process.start", entities=(row.entity,)):
        role = start.attributes.get(names.PROCESS_ROLE, "")
        command = start.attributes.get(names.COMMAND, "") or start.attributes.get(names.PROCESS_TITLE, "")
        program = command.split(" ", 1)[0].rsplit("/", 1)[-1]
        role = role or {"raylet": "raylet", "gcs_server": "gcs"}.get(program, "")
        if not role and (command.startswith("ray::") or "/default_worker.py" in command):
            role = "ray_worker"
    return role


def _node_of(window: Window, roster: Roster, row: LogRow) -> str:
    """The node of a raylet: what its records say, else the only node that it can be."""
    node = entity_id(row.attributes.get(names.NODE_ENTITY, ""))
    for start in window.rows("process.start", entities=(row.entity,)):
        node = (
            node
            or entity_id(start.attributes.get(names.NODE_ENTITY, ""))
            or start.attributes.get(names.RAY_NODE, "")
        )
        command = start.attributes.get(names.COMMAND, "")
        for candidate in roster.nodes.values():
            if not node and f"--node-id={candidate.id}" in command:
                node = candidate.id
            if not node and candidate.row is not None and f"--node-name={candidate.name}" in command:
                node = candidate.id
    for worker in window.rows(
        "process.start", attributes={names.PARENT_PID: row.attributes.get(names.PID, "")}
    ):
        node = node or worker.attributes.get(
            names.RAY_NODE, ""
        )  # a raylet's workers carry its node in their environment
    if node:
        return node
    alive = [
        candidate for candidate in roster.nodes.values() if not candidate.ended or candidate.ended >= row.ts
    ]
    return alive[0].id if len(alive) == 1 else ""
