"""``incidents``: what went wrong, as diagnosis left it at a time."""

from __future__ import annotations

from typing import Any

from misstep.collector.api import standing
from misstep.collector.api.operation import (
    FLAG,
    NUMBER,
    TEXT,
    TIME,
    Context,
    Operation,
    listing,
    record,
)
from misstep.collector.api.parameter import AT, CURSOR, LIMIT, SESSION, Parameter, page
from misstep.collector.refusal import Refusal
from misstep.diagnosis import awaited
from misstep.store.view import View

_TEXTS = {"type": "array", "items": TEXT}
_UNSEEN = record(source=TEXT, reason=TEXT, remedy=TEXT)
_AWAITED = record(title=TEXT, sentence=TEXT, since_ns=TIME, until_ns=TIME, reason=TEXT)
_EVIDENCE = {
    "type": "object",
    "properties": {"table": {"enum": ["logs", "samples"]}, "seq": NUMBER, "row": NUMBER, "series": {}},
    "required": ["table"],
}
_BLAMED = {
    "type": "object",
    "properties": {"kind": TEXT, "id": TEXT, "name": TEXT, "attributes": {"type": "object"}},
    "required": ["kind", "id", "name"],
}
_STEP = {
    "type": "object",
    "properties": {
        "ts_ns": TIME,
        "entity": TEXT,
        "name": TEXT,
        "statement": TEXT,
        "role": {"enum": ["context", "symptom", "cause", "consequence"]},
        "source": TEXT,
        "count": NUMBER,
        "evidence": {"type": "array", "items": _EVIDENCE},
    },
    "required": ["ts_ns", "entity", "statement", "role"],
}
INCIDENT = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "session": TEXT,
        "status": {"enum": ["open", "ended", "recovered"]},
        "severity": {"enum": ["critical", "error", "warning"]},
        "cause": TEXT,
        "title": TEXT,
        "sentence": TEXT,
        "layer": TEXT,
        "onset_ns": TIME,
        "opened_ns": TIME,
        "updated_ns": TIME,
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "blamed": {"type": "array", "items": _BLAMED},
        "impact": {"type": "object", "properties": {"summary": TEXT}},
        "chain": {"type": "array", "items": _STEP},
        "not_it": {"type": "array", "items": record(cause=TEXT, reason=TEXT)},
        "unseen": {"type": "array", "items": _UNSEEN},
        "action": _TEXTS,
        "more": _TEXTS,
        "runbook": TEXT,
    },
    "required": ["id", "session", "status", "severity", "cause", "title", "sentence", "onset_ns", "blamed", "chain"],
}  # fmt: skip


def _list(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    session, status = query["session"], query["status"]
    # The tick is read first: what is diagnosed meanwhile may be newer than it says, never older.
    tick = context.progress.tick()
    view = context.view(query["at"])
    known = context.store.incidents(session=session, at=query["at"])
    kept = [i for i in known if status is None or i["status"] == status]
    found, cursor = page(kept, lambda i: (i["onset_ns"], i["id"]), query["cursor"], query["limit"])
    as_of = tick if query["at"] is None else min(tick, query["at"])
    return {
        "as_of_ns": as_of,
        "settled": _settled(view, session, as_of),
        "incidents": [i for i in found if i["status"] != "recovered"],
        "recovered": [i for i in found if i["status"] == "recovered"],
        "awaited": awaited(view, session, as_of) if session and as_of else [],
        "unseen": _unseen(context, view, session),
        "summary": standing.summary(view, session) if session else {},
        "cursor": cursor,
    }


def _one(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    for incident in context.store.incidents(at=query["at"]):
        if incident["id"] == query["id"]:
            return incident
    raise Refusal(
        404, "not_found", f"no incident {query['id'][:100]!r} at that time; GET incidents lists them"
    )


def _settled(view: View, session: str | None, tick: int) -> bool:
    rows = [row for row in view.sessions() if session is None or row.session == session]
    return bool(rows) and all(standing.settled(view, row, tick) for row in rows)


def _unseen(context: Context, view: View, session: str | None) -> list[dict[str, str]]:
    if not session:
        return []
    failed = [
        {"source": "diagnosis", "reason": reason, "remedy": "the collector's log has the traceback"}
        for reason in context.progress.failures(session)
    ]
    return standing.unseen(view, session) + failed


_STATUS = Parameter("status", "text", "only incidents that stand so", ("open", "ended", "recovered"))
OPERATIONS = (
    Operation(
        "/incidents",
        "listIncidents",
        "Incidents as of the last diagnosed second, oldest first, with what could not be seen",
        (SESSION, _STATUS, AT, LIMIT, CURSOR),
        listing(
            "incidents",
            INCIDENT,
            as_of_ns=TIME,
            settled=FLAG,
            recovered={"type": "array", "items": INCIDENT},
            awaited={"type": "array", "items": _AWAITED},
            unseen={"type": "array", "items": _UNSEEN},
            summary=standing.schema(),
        ),
        _list,
    ),
    Operation("/incidents/{id}", "getIncident", "One incident", (AT,), INCIDENT, _one),
)
