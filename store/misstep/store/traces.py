"""What Jaeger's API asks of the store: services, operations, traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from misstep.core.errors import InputError

TRACES_LIMIT = 1500
"""Traces of one answer."""
SPANS_LIMIT = 200_000
"""Spans of one answer; a trace with more is cut, its earliest spans first."""
_ANSWER_SPANS_LIMIT = 500_000
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
"""Kinds of spans, by the number that OTLP gives them."""
_OK, _ERROR = 1, 2
_TIME = (1 << 63) - 1


class Source(Protocol):
    """A `View`."""

    def ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query in which ``{spans}``, … stand for tables."""
        ...


class Span(NamedTuple):
    """One span; times are Unix nanoseconds, ids hex.

    Attributes:
        parent: empty for a root.
        kind: one of `KINDS`.
        status: ``unset``, ``ok`` or ``error``.
        events: each with ts, name and attributes.
        links: each with trace_id, span_id and attributes.
        resource: attributes of its sender.
    """

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    service: str
    start: int
    end: int
    status: str
    message: str
    session: str
    attributes: dict[str, str]
    events: list[dict[str, Any]]
    links: list[dict[str, Any]]
    scope: str
    resource: dict[str, str]


class Operation(NamedTuple):
    """What a service does, and as which kind of span."""

    name: str
    kind: str


class Call(NamedTuple):
    """How often spans of one service are parents of spans of another."""

    parent: str
    child: str
    number: int


def services(source: Source) -> list[str]:
    """Names of services, sorted."""
    return [str(row[0]) for row in source.ask("SELECT DISTINCT service FROM {spans} ORDER BY service")]


def operations(source: Source, service: str, kind: str = "") -> list[Operation]:
    """What a service does, sorted; of one kind of spans if that is named.

    Raises:
        InputError: there is no such kind.
    """
    where, parameters = "service = ?", [service]
    if kind:
        where += f" AND kind = {_kind_number(kind)}"
    rows = source.ask(
        f"SELECT DISTINCT name, kind FROM {{spans}} WHERE {where} ORDER BY name, kind LIMIT 10000", parameters
    )
    return [Operation(str(name), _kind(kind)) for name, kind in rows]


def search(
    source: Source,
    service: str,
    *,
    operation: str = "",
    tags: Mapping[str, str] | None = None,
    start: int = 0,
    end: int = _TIME,
    shortest: int = 0,
    longest: int = _TIME,
    limit: int = 20,
) -> list[list[Span]]:
    """Whole traces that have a span like this, those with the newest such span first.

    Args:
        source: where.
        service: of the span.
        operation: its name; empty for any.
        tags: attributes of the span, of its resource, or what Jaeger makes of a status: ``error``.
        start: the span begins at or after, Unix nanoseconds.
        end: the span begins at or before.
        shortest: its duration is at least so many nanoseconds.
        longest: its duration is at most so many.
        limit: traces.

    Raises:
        InputError: the limit is over ours.
        StorageError: the store cannot be read.
    """
    if not 0 < limit <= TRACES_LIMIT:
        raise InputError(f"the limit must be from 1 to {TRACES_LIMIT}")
    where, parameters = ["s.service = ?", f"s.start >= {int(start)}", f"s.start <= {int(end)}"], [service]
    if operation:
        where.append("s.name = ?")
        parameters.append(operation)
    if shortest:
        where.append(f's."end" - s.start >= {int(shortest)}')
    if longest < _TIME:
        where.append(f's."end" - s.start <= {int(longest)}')
    for key, value in (tags or {}).items():
        condition, values = _tag(key, value)
        where.append(condition)
        parameters += values
    rows = source.ask(
        f"SELECT s.trace_id FROM {{spans}} s WHERE {' AND '.join(where)} "
        f"GROUP BY s.trace_id ORDER BY max(s.start) DESC, s.trace_id LIMIT {limit}",
        parameters,
    )
    return traces(source, [bytes(row[0]).hex() for row in rows])


def traces(source: Source, ids: Sequence[str], *, start: int = 0, end: int = _TIME) -> list[list[Span]]:
    """The spans of traces, each by start, in the order of the ids; a trace that is not there is left out.

    Args:
        source: where.
        ids: hex, of up to 32 digits; leading zeros may be missing.
        start: only spans that begin at or after.
        end: only spans that begin at or before.

    Raises:
        InputError: an id is none.
        StorageError: the store cannot be read.
    """
    wanted = [_trace_id(id) for id in ids]
    if not wanted:
        return []
    rows = source.ask(
        'SELECT s.trace_id, s.span_id, s.parent_span_id, s.name, s.kind, s.service, s.start, s."end", s.status, '
        "s.status_message, s.session, s.attributes, s.events, s.links, s.scope, r.attributes FROM {spans} s "
        "LEFT JOIN (SELECT resource, any_value(attributes) AS attributes FROM {resources} GROUP BY resource) r "
        "ON r.resource = s.resource "
        f"WHERE s.trace_id IN ({', '.join('?' * len(wanted))}) AND s.start >= {int(start)} AND s.start <= {int(end)} "
        f"ORDER BY s.start, s.seq, s.row LIMIT {min(SPANS_LIMIT * len(wanted), _ANSWER_SPANS_LIMIT)}",
        wanted,
    )
    found: dict[str, list[Span]] = {id.hex(): [] for id in wanted}
    for row in rows:
        found[bytes(row[0]).hex()].append(_span(row))
    return [spans[:SPANS_LIMIT] for spans in found.values() if spans]


def calls(source: Source, *, start: int, end: int) -> list[Call]:
    """Which services call which, by spans that begin in an interval."""
    rows = source.ask(
        "SELECT p.service, c.service, count(*) FROM {spans} c JOIN {spans} p "
        "ON p.trace_id = c.trace_id AND p.span_id = c.parent_span_id "
        f"WHERE c.start >= {int(start)} AND c.start <= {int(end)} AND p.service <> c.service "
        "GROUP BY ALL ORDER BY ALL LIMIT 10000"
    )
    return [Call(str(parent), str(child), int(number)) for parent, child, number in rows]


def _tag(key: str, value: str) -> tuple[str, list[str]]:
    if key == "error" and value in ("true", "false"):
        # Jaeger's name for a status; some senders set it as an attribute of their own.
        own = f"(s.status = {_ERROR} OR coalesce(s.attributes['error'], '') = 'true')"
        return (own if value == "true" else f"NOT {own}"), []
    if key == "span.kind":
        return f"s.kind = {_kind_number(value)}", []
    if key == "otel.status_code":
        return f"s.status = { ({'OK': _OK, 'ERROR': _ERROR}.get(value.upper(), 0)) }", []
    found = (
        "(s.attributes[?] = ? OR s.resource IN (SELECT resource FROM {resources} WHERE attributes[?] = ?))"
    )
    return found, [key, value, key, value]


def _trace_id(text: str) -> bytes:
    try:
        if not 0 < len(text) <= 32:
            raise ValueError
        return bytes.fromhex(text.zfill(32))
    except ValueError:
        raise InputError(f"{text[:40]!r} is no trace id: 32 hexadecimal digits") from None


def _span(row: tuple[Any, ...]) -> Span:
    status = {_OK: "ok", _ERROR: "error"}.get(row[8], "unset")
    trace, own, parent = (bytes(id or b"").hex() for id in row[:3])
    return Span(
        trace, own, parent, row[3], _kind(row[4]), row[5], row[6], row[7], status, row[9] or "", row[10] or "",
        row[11] or {}, json.loads(row[12] or "[]"), json.loads(row[13] or "[]"), row[14] or "", row[15] or {},
    )  # fmt: skip


def _kind(number: int | None) -> str:
    return KINDS[number] if number is not None and 0 <= number < len(KINDS) else KINDS[0]


def _kind_number(kind: str) -> int:
    if kind.lower() not in KINDS:
        raise InputError(f"{kind[:40]!r} is no kind of span; kinds are {', '.join(KINDS)}")
    return KINDS.index(kind.lower())
