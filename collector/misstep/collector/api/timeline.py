"""``timeline``: what happened, a sentence each: the turning points of a session and its incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from misstep.collector.api.logs import position
from misstep.collector.api.operation import TEXT, TIME, Context, Operation, listing, record
from misstep.collector.api.parameter import AT, CURSOR, LIMIT, SESSION, SINCE, UNTIL, encode_cursor
from misstep.core import names
from misstep.diagnosis.roster import Roster
from misstep.diagnosis.window import Window
from misstep.store.rows import LogRow
from misstep.store.view import View

_ENTRY = record(ts_ns=TIME, statement=TEXT, entity=TEXT, kind={"enum": ["event", "incident"]})

_STATES: dict[str, dict[str, str]] = {
    "session.start": {"": "found"},
    "session.end": {"ended": "shut down", "lost": "vanished"},
    "agent.gap": {"": "lost records"},
    "process.exit": {"exited": "exits", "killed": "is killed", "unknown": "is gone"},
    "process.exception": {"": "ends by an exception"},
    "command.start": {"": "starts"},
    "command.exit": {"exited": "exits", "killed": "is killed"},
    "kernel.oom_kill": {"": "killed by the kernel for want of memory"},
    "kernel.segfault": {"": "made an invalid memory access"},
    "kernel.hung_task": {"": "blocked in the kernel"},
    "hw.gpu.xid": {"": "reported an Xid"},
    "hw.gpu.process": {"held": "holds a GPU"},
    "hw.gpu.state": {
        "lost": "is lost",
        "reset_required": "must be reset",
        "unresponsive": "makes the driver hang",
        "ok": "answers again",
    },
    "hw.gpu.event": {
        "ecc_uncorrected": "counts an uncorrectable memory error",
        "remap_failed": "cannot replace a bad memory row",
        "unavailable": "is unavailable",
        "nvlink_down": "sees an NVLink down",
        "throttled": "lowers its clocks",
        "throttle_end": "no longer lowers its clocks",
    },
    "ray.node.lifecycle": {"ALIVE": "joins", "DEAD": "is lost"},
    "ray.worker.lifecycle": {"DEAD": "ends"},
    "ray.job.lifecycle": {"CREATED": "connects", "FINISHED": "disconnects"},
    "ray.submission": {
        "PENDING": "submitted",
        "RUNNING": "runs",
        "STOPPED": "stopped",
        "SUCCEEDED": "succeeded",
        "FAILED": "failed",
    },
    "ray.actor.lifecycle": {"ALIVE": "is up", "RESTARTING": "restarts", "DEAD": "is dead"},
    "ray.task.lifecycle": {"FAILED": "fails"},
}
"""Event, state, and what is said of its subject; what is not here is detail, and stands in ``logs``."""

_CALLED = {
    "task": names.RAY_TASK_NAME,
    "actor": names.RAY_ACTOR_CLASS,
    "ray_node": names.RAY_NODE_NAME,
    "ray_worker": names.PID,
    "process": names.PID,
    "gpu": names.HW_ID,
    "host": names.HOST_NAME,
    "job": names.RAY_SUBMISSION,
}
_DETAILS = (
    names.XID,
    names.GPU_INDEX,
    names.RAY_ERROR_TYPE,
    names.EXIT_SIGNAL,
    names.EXIT_CODE,
    names.RAY_EXIT_TYPE,
    names.DROPPED,
)
_TITLES = {"ray_node": "node", "ray_worker": "worker"}
_SHORT = 12
_DEFINED = ("task", "actor", "ray_worker", "ray_node")
_LOOKED_UP = 200


def statement(row: LogRow, known: Mapping[str, str] | None = None) -> str:
    """One sentence for an event, empty where it is detail.

    Args:
        row: the event.
        known: names of entities that their events do not tell.
    """
    said = _STATES.get(row.event, {}).get(row.state) or _STATES.get(row.event, {}).get("")
    if not said:
        return ""
    details = [row.attributes[key] for key in _DETAILS if row.attributes.get(key)]
    return f"{_subject(row, known or {})} {said}" + (f" ({', '.join(details)})" if details else "")


def _subject(row: LogRow, known: Mapping[str, str]) -> str:
    kind, _, id = row.entity.partition("/")
    if kind == "session" or not kind:
        return f"session {row.session}"
    called = _own_name(row, kind) or known.get(row.entity)
    return f"{_TITLES.get(kind, kind)} {called or id[:_SHORT]}"


def _own_name(row: LogRow, kind: str) -> str:
    """What the event itself calls its subject."""
    own = row.attributes.get(_CALLED.get(kind, ""), "")
    return own or (row.resource.get(names.HOST_NAME, "") if kind == "host" else "")


def _known(view: View, rows: Sequence[LogRow]) -> dict[str, str]:
    """Names of those whose events tell none, as their definitions tell them; at most `_LOOKED_UP` a page."""
    found: dict[str, str] = {}
    asked: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        kind, _, id = row.entity.partition("/")
        if kind in _DEFINED and id and not _own_name(row, kind):
            ids = asked.setdefault(row.session, {}).setdefault(kind, [])
            if id not in ids and len(ids) < _LOOKED_UP:
                ids.append(id)
    for session, by_kind in asked.items():
        roster = Roster(Window(view, session, view.position()[1]))
        for id, task in roster.tasks(by_kind.get("task", ())).items():
            found[f"task/{id}"] = task.name
        for id in by_kind.get("actor", ()):
            actor = roster.actor(id)
            found[f"actor/{id}"] = actor.name or actor.class_name
        for id in by_kind.get("ray_worker", ()):
            pid = roster.worker(id).pid
            found[f"ray_worker/{id}"] = str(pid) if pid else ""
        if "ray_node" in by_kind:
            found.update({f"ray_node/{id}": node.name for id, node in roster.nodes.items()})
    return found


def _list(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    limit, after = query["limit"], position(query["cursor"])
    view = context.view(query["at"])
    rows = view.logs(
        session=query["session"],
        events=tuple(_STATES),
        states=tuple(sorted({state for states in _STATES.values() for state in states})),
        since=query["since"],
        until=query["until"],
        after=after,
        limit=limit + 1,
    )
    shown = rows[:limit]
    known = _known(view, shown)
    entries = [
        {"ts_ns": r.ts, "statement": said, "entity": r.entity, "kind": "event"}
        for r in shown
        if (said := statement(r, known))
    ]
    if after is None:
        entries += _incidents(context, query)
    entries.sort(key=lambda e: (e["ts_ns"], e["entity"], e["statement"]))
    cursor = encode_cursor((shown[-1].seq, shown[-1].row)) if len(rows) > limit else None
    return {"entries": entries, "cursor": cursor}


def _incidents(context: Context, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Incidents stand on the first page, at their onset: they are few."""
    since, until = query["since"] or 0, query["until"]
    return [
        {
            "ts_ns": i["onset_ns"],
            "statement": i["title"],
            "entity": f"{i['blamed'][0]['kind']}/{i['blamed'][0]['id']}" if i["blamed"] else "",
            "kind": "incident",
        }
        for i in context.store.incidents(session=query["session"], at=query["at"])
        if i["status"] != "recovered" and i["onset_ns"] >= since and (until is None or i["onset_ns"] < until)
    ]


OPERATIONS = (
    Operation(
        "/timeline",
        "listTimeline",
        "Turning points and incidents; a page holds the entries of a stretch of the journal, ordered by time",
        (SESSION, SINCE, UNTIL, AT, LIMIT, CURSOR),
        listing("entries", _ENTRY),
        _list,
    ),
)
