"""Sessions, entities and relations, derived by SQL from events and their declarations in `core.names`."""

from __future__ import annotations

from collections.abc import Sequence

from misstep.core import names
from misstep.core.identity import Session
from misstep.store.reader import Reader
from misstep.store.rows import EntityRow, RelationRow, SessionRow


def sessions(reader: Reader) -> list[SessionRow]:
    """Sessions that began or ended in an event, ordered by start and name."""
    heard = {str(id): int(received) for id, received in reader.rows(_HEARD)}
    told: dict[str, list[tuple[int, str, str, dict[str, str]]]] = {}
    for id, ts, event, state, attributes in reader.rows(_TOLD):
        told.setdefault(id, []).append((int(ts), event, state, attributes or {}))
    found = [_session(id, words, heard.get(id, 0)) for id, words in told.items()]
    return sorted(found, key=lambda row: (row.started, row.session))


def _session(id: str, told: list[tuple[int, str, str, dict[str, str]]], heard: int) -> SessionRow:
    """A session as its events tell it, which come in journal order."""
    starts = [ts for ts, event, _, _ in told if event == "session.start"]
    attributes: dict[str, str] = {}
    for _, event, _, own in told:
        if event == "session.start":
            attributes.update(own)
    ts, event, state, _ = told[-1]
    over = event == "session.end"
    return SessionRow(
        id,
        *_parsed(id),
        min(starts or [told[0][0]]),
        ts if over else None,
        heard,
        "live" if not over else "lost" if state == "lost" else "ended",
        dict(sorted(attributes.items())),
    )


def entities(reader: Reader, session: str | None, kind: str | None, ids: Sequence[str]) -> list[EntityRow]:
    """Entities that events are about, ordered by when they were first seen."""
    where, parameters = _where(("session = ?", session), ("starts_with(entity, ?)", kind and f"{kind}/"))
    if ids:
        where += " AND entity IN (SELECT unnest(?::VARCHAR[]))"
        parameters.append(list(ids))
    return [
        EntityRow._make((*row[:6], row[6] or {}))
        for row in reader.rows(_ENTITIES.replace("WHERE_ENTITY", where), parameters)
    ]


def relations(
    reader: Reader, session: str | None, source: str | None, target: str | None, at: int | None
) -> list[RelationRow]:
    """Relations with their intervals, ordered by when they began."""
    where, parameters = _where(("session = ?", session), ("source = ?", source), ("target = ?", target))
    if at is not None:
        where += " AND valid_from <= ? AND (valid_to IS NULL OR valid_to > ?)"
        parameters += [at, at]
    query = (
        _RELATIONS + f" SELECT * FROM relation WHERE {where} ORDER BY valid_from, source, relation, target"
    )
    return [RelationRow(*row) for row in reader.rows(query, parameters)]


def _where(*conditions: tuple[str, str | None]) -> tuple[str, list[object]]:
    used = [(text, value) for text, value in conditions if value is not None]
    return " AND ".join(["true", *(text for text, _ in used)]), [value for _, value in used]


def _parsed(id: str) -> tuple[str, str]:
    try:
        session = Session.parse(id)
    except ValueError:
        return "", id
    return session.kind, session.name


def _values(rows: Sequence[tuple[str, ...]]) -> str:
    """Constants of our own declarations as SQL; braces would be taken for a table."""
    return ", ".join("(" + ", ".join("'" + v.replace("'", "''") + "'" for v in row) + ")" for row in rows)


_ENDS = _values([(event.name, state) for event in names.EVENTS for state in event.ends])
_RELATES = _values(
    [
        (event.name, *relation, "each" if event.parts else "")
        for event in names.EVENTS
        for relation in event.relates
    ]
)
_PARTS = _values([(event.name, state) for event in names.EVENTS for state in event.parts])

_TOLD = """
SELECT session, ts, event, state, attributes FROM {logs}
WHERE event IN ('session.start', 'session.end') AND session <> '' ORDER BY seq, row
"""

_HEARD = """
SELECT h.session, r.received FROM
  (SELECT session, max(seq) AS seq FROM {logs} WHERE session <> '' GROUP BY session) h
JOIN {requests} r ON r.seq = h.seq
"""

_ENTITIES = f"""
WITH told AS (
  SELECT entity, session, seq, row, ts, event, state, attributes FROM {{logs}} WHERE entity <> '' AND WHERE_ENTITY
), pair AS (
  SELECT entity, ts, seq, row, unnest(map_entries(attributes)) AS e FROM told
), attribute AS (
  SELECT entity, e.key AS key, arg_max(e.value, (ts, seq, row)) AS value FROM pair GROUP BY entity, e.key
), attributes AS (
  SELECT entity, map_from_entries(list((key, value) ORDER BY key)) AS attributes FROM attribute GROUP BY entity
), life AS (
  SELECT entity, coalesce(arg_max(session, (seq, row)) FILTER (session <> ''), '') AS session, min(ts) AS first_seen,
    max(ts) AS last_seen, coalesce(arg_max(state, (ts, seq, row)) FILTER (state <> ''), '') AS state,
    arg_max(event, (ts, seq, row)) FILTER (state <> '') AS event, arg_max(ts, (ts, seq, row)) FILTER (state <> '') AS ts
  FROM told GROUP BY entity
)
SELECT l.entity, l.session, l.first_seen, l.last_seen, CASE WHEN d.event IS NOT NULL THEN l.ts END, l.state, a.attributes
FROM life l LEFT JOIN attributes a ON a.entity = l.entity
LEFT JOIN (VALUES {_ENDS}) d(event, state) ON d.event = l.event AND d.state = l.state
ORDER BY l.first_seen, l.entity
"""

# A relation begins with its event. It ends when either side ends, or when its source begins the same relation with another;
# one that an event can part holds with several at once, and ends with that event.
_RELATIONS = f"""
WITH declared(event, source, relation, target, many) AS (VALUES {_RELATES}),
told AS (
  SELECT l.session, l.ts, l.seq, l.row, d.relation, d.many,
    CASE WHEN d.source = '{names.ENTITY}' THEN l.entity ELSE l.attributes[d.source] END AS source,
    CASE WHEN d.target = '{names.ENTITY}' THEN l.entity ELSE l.attributes[d.target] END AS target,
    (l.event, l.state) IN (VALUES {_PARTS}) AS parts
  FROM {{logs}} l JOIN declared d ON l.event = d.event
), strand AS (
  SELECT *, CASE WHEN many = '' THEN '' ELSE target END AS strand FROM told WHERE source <> '' AND target <> ''
), begun AS (
  SELECT *, (target, parts) IS DISTINCT FROM lag((target, parts)) OVER w AS turned FROM strand
  WINDOW w AS (PARTITION BY source, relation, strand ORDER BY ts, seq, row)
), island AS (
  SELECT *, sum(turned::INT) OVER (PARTITION BY source, relation, strand ORDER BY ts, seq, row) AS island FROM begun
), turn AS (
  SELECT source, relation, strand, island, lead(min(ts)) OVER (PARTITION BY source, relation, strand ORDER BY island) AS next
  FROM island GROUP BY source, relation, strand, island
), ended AS (
  SELECT DISTINCT entity, ts FROM {{logs}} l JOIN (VALUES {_ENDS}) d(event, state) ON l.event = d.event AND l.state = d.state
  WHERE entity <> ''
), dated AS (
  SELECT i.source, i.relation, i.target, i.session, i.ts, least(t.next, a.ts, b.ts) AS valid_to
  FROM island i JOIN turn t ON t.source = i.source AND t.relation = i.relation AND t.strand = i.strand AND t.island = i.island
  ASOF LEFT JOIN ended a ON a.entity = i.source AND a.ts >= i.ts
  ASOF LEFT JOIN ended b ON b.entity = i.target AND b.ts >= i.ts
  WHERE NOT i.parts
), relation AS (
  SELECT source, relation, target, arg_max(session, ts) AS session, min(ts) AS valid_from, valid_to
  FROM dated GROUP BY source, relation, target, valid_to
)"""

ENTITIES = (
    _ENTITIES.replace("WHERE_ENTITY", "true")
    .replace("ORDER BY l.first_seen, l.entity", "")
    .replace("THEN l.ts END,", "THEN l.ts END AS ended,")
)
"""The table that `entities` reads, as SQL over ``{logs}``."""

RELATIONS = _RELATIONS + " SELECT source, relation, target, session, valid_from, valid_to FROM relation"
"""The table that `relations` reads, as SQL over ``{logs}``."""
