"""``logs``: events and log lines in the order in which they were received."""

from __future__ import annotations

from typing import Any

from misstep.collector.api.operation import (
    ATTRIBUTES,
    NUMBER,
    TEXT,
    TIME,
    Context,
    Operation,
    listing,
    record,
)
from misstep.collector.api.parameter import (
    AT,
    CURSOR,
    LIMIT,
    SESSION,
    SINCE,
    UNTIL,
    Parameter,
    decode_cursor,
    encode_cursor,
)
from misstep.collector.api.subject import Selection, resolve
from misstep.collector.refusal import Refusal
from misstep.core.clock import SECOND
from misstep.store.rows import LogRow
from misstep.store.view import View

AROUND_SECONDS = 15
"""``around=`` takes this much on both sides."""
_LAST_ROW = (1 << 31) - 1

_RECORD = record(
    seq=NUMBER,
    row=NUMBER,
    received_ns=TIME,
    ts_ns=TIME,
    event=TEXT,
    severity=NUMBER,
    session=TEXT,
    entity=TEXT,
    state=TEXT,
    body=TEXT,
    attributes=ATTRIBUTES,
    resource=ATTRIBUTES,
)


def as_json(row: LogRow) -> dict[str, Any]:
    """A row as the API shows it."""
    fields = row._asdict()
    fields["received_ns"] = fields.pop("received")
    fields["ts_ns"] = fields.pop("ts")
    return fields


def position(cursor: str | None) -> tuple[int, int] | None:
    """The journal position in a cursor.

    Raises:
        Refusal: 400.
    """
    if not cursor:
        return None
    decoded = decode_cursor(cursor)
    if len(decoded) != 2 or not all(isinstance(part, int) for part in decoded):
        raise Refusal(400, "parameter", "the cursor belongs to another list")
    return decoded[0], decoded[1]


def _list(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    view, limit = context.view(query["at"]), query["limit"]
    filters = _filters(query)
    filters["limit"] = limit + 1
    filters["newest"] = query["newest"]
    filters["after"] = position(query["cursor"])
    rows: dict[tuple[int, int], LogRow] = {}
    for selection in _selections(view, query):
        rows.update({(r.seq, r.row): r for r in view.logs(**filters, **selection)})
    ordered = [rows[key] for key in sorted(rows)]
    more = len(ordered) > limit
    end = encode_cursor((view.position()[0], _LAST_ROW))
    if query["newest"]:
        return {"logs": [as_json(r) for r in ordered[-limit:]], "cursor": None, "end": end}
    shown = ordered[:limit]
    last = encode_cursor((shown[-1].seq, shown[-1].row)) if more and shown else None
    return {"logs": [as_json(r) for r in shown], "cursor": last, "end": last or end}


def _filters(query: dict[str, Any]) -> dict[str, Any]:
    since, until = query["since"], query["until"]
    if query["around"] is not None:
        if since is not None or until is not None:
            raise Refusal(400, "parameter", "give around, or since and until, not both")
        since = query["around"] - AROUND_SECONDS * SECOND
        until = query["around"] + AROUND_SECONDS * SECOND
    filters: dict[str, Any] = {"since": since, "until": until}
    if query["session"] is not None:
        filters["session"] = query["session"]
    if query["event"]:
        filters["events"] = tuple(query["event"])
    if query["contains"]:
        filters["contains"] = tuple(query["contains"])
    return filters


def _selections(view: View, query: dict[str, Any]) -> list[dict[str, Any]]:
    plain = query["plain"]
    if not query["entity"]:
        return [Selection(plain=plain).filters()]
    selections: list[Selection] = []
    for text in query["entity"]:
        try:
            selections += resolve(view, query["session"], text)
        except ValueError as error:
            raise Refusal(400, "parameter", str(error)) from None
    if plain is not None or query["event"]:
        wanted = False if query["event"] else plain
        selections = [s._replace(plain=wanted) for s in selections if s.plain is None or s.plain == wanted]
    return [s.filters() for s in selections]


OPERATIONS = (
    Operation(
        "/logs",
        "listLogs",
        "Events and log lines in journal order",
        (
            SESSION,
            Parameter(
                "entity",
                "texts",
                "about this entity: kind/id, kind/name or the first letters of the id; with the log lines of "
                "its worker or process; may be repeated",
            ),
            Parameter("event", "texts", "only events of this name; may be repeated"),
            Parameter("contains", "texts", "only records whose body holds this text; repeated: any of them"),
            Parameter("plain", "flag", "true: only log lines; false: only events"),
            Parameter("around", "time", f"{AROUND_SECONDS} s on both sides of this time"),
            SINCE,
            UNTIL,
            Parameter(
                "newest", "flag", "the last records instead of the first; one page only", default=False
            ),
            AT,
            LIMIT,
            CURSOR,
        ),
        listing(
            "logs",
            _RECORD,
            end={
                **TEXT,
                "description": "a cursor behind this answer: what arrives later is asked for with it",
            },
        ),
        _list,
    ),
)
