"""``entities``: who there was, with what and since when."""

from __future__ import annotations

from typing import Any

from misstep.collector.api.operation import (
    ATTRIBUTES,
    TEXT,
    TIME,
    TIME_OR_NULL,
    Context,
    Operation,
    listing,
    record,
)
from misstep.collector.api.parameter import AT, CURSOR, LIMIT, SESSION, Parameter, page
from misstep.core.identity import ENTITY_KINDS

_RELATION = record(source=TEXT, relation=TEXT, target=TEXT, valid_from_ns=TIME, valid_to_ns=TIME_OR_NULL)
_ENTITY = record(
    entity=TEXT,
    session=TEXT,
    first_seen_ns=TIME,
    last_seen_ns=TIME,
    ended_ns=TIME_OR_NULL,
    state=TEXT,
    attributes=ATTRIBUTES,
    relations={"type": "array", "items": _RELATION},
)


def _list(context: Context, query: dict[str, Any]) -> dict[str, Any]:
    view = context.view(query["at"])
    rows = view.entities(session=query["session"], kind=query["kind"], ids=tuple(query["entity"]))
    found, cursor = page(rows, lambda e: (e.session, e.entity), query["cursor"], query["limit"])
    relations: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in view.relations(session=query["session"]) if found else ():
        relations.setdefault((r.session, r.source), []).append(
            {
                "source": r.source,
                "relation": r.relation,
                "target": r.target,
                "valid_from_ns": r.valid_from,
                "valid_to_ns": r.valid_to,
            }
        )
    entities = [
        {
            "entity": e.entity,
            "session": e.session,
            "first_seen_ns": e.first_seen,
            "last_seen_ns": e.last_seen,
            "ended_ns": e.ended,
            "state": e.state,
            "attributes": e.attributes,
            "relations": relations.get((e.session, e.entity), []),
        }
        for e in found
    ]
    return {"entities": entities, "cursor": cursor}


_KIND = Parameter("kind", "text", "only entities of this kind", ENTITY_KINDS)
_ENTITIES = Parameter("entity", "texts", "only this entity (kind/id); may be repeated")
OPERATIONS = (
    Operation(
        "/entities",
        "listEntities",
        "Entities with their newest state and the relations that begin at them",
        (SESSION, _KIND, _ENTITIES, AT, LIMIT, CURSOR),
        listing("entities", _ENTITY),
        _list,
    ),
)
