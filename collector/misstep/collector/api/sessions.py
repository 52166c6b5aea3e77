"""``sessions``: every life of every cluster that was heard of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from misstep.collector.api.operation import (
    ATTRIBUTES,
    NUMBER,
    TEXT,
    TIME,
    TIME_OR_NULL,
    Context,
    Operation,
    listing,
    record,
)
from misstep.collector.api.parameter import AT, CURSOR, LIMIT, page

_SESSION = record(
    session=TEXT,
    kind=TEXT,
    name=TEXT,
    started_ns=TIME,
    ended_ns=TIME_OR_NULL,
    state={"enum": ["live", "ended", "lost"]},
    heard_ns=TIME,
    attributes=ATTRIBUTES,
    incidents=NUMBER,
)


def _list(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    at = query["at"]
    rows = context.view(at).sessions()
    standing = Counter(i["session"] for i in context.store.incidents(at=at) if i["status"] != "recovered")
    found, cursor = page(rows, lambda s: (s.started, s.session), query["cursor"], query["limit"])
    sessions = [
        {
            "session": s.session,
            "kind": s.kind,
            "name": s.name,
            "started_ns": s.started,
            "ended_ns": s.ended,
            "state": s.state,
            "heard_ns": s.heard,
            "attributes": s.attributes,
            "incidents": standing[s.session],
        }
        for s in found
    ]
    return {"sessions": sessions, "cursor": cursor}


OPERATIONS = (
    Operation(
        "/sessions",
        "listSessions",
        "Sessions, oldest first, each with the number of its incidents",
        (AT, LIMIT, CURSOR),
        listing("sessions", _SESSION),
        _list,
    ),
)
