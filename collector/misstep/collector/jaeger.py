"""Jaeger's HTTP API, as its own page and Grafana's data source ask it: https://www.jaegertracing.io/docs/latest/apis/

Shapes as in Jaeger's ``model/json``: microseconds, processes by name within a trace, tags with types.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from misstep.collector.api.operation import Context
from misstep.collector.dialect import Answer, Dialect, Question, Route
from misstep.collector.refusal import Refusal
from misstep.core import names
from misstep.store import traces
from misstep.store.traces import Span

_MICROSECOND = 1000
_LIMIT = 20
_UNITS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|μs|ms|s|m|h)")
_MOST = 1 << 62


def dialect(context: Context) -> Dialect:
    """Jaeger's API over what the context has."""
    routes = (
        Route("/api/services", _services, ("GET",)),
        Route("/api/services/{service}/operations", _service_operations, ("GET",)),
        Route("/api/operations", _operations, ("GET",)),
        Route("/api/traces", _search, ("GET",)),
        Route("/api/traces/{id}", _trace, ("GET",)),
        Route("/api/dependencies", _dependencies, ("GET",)),
    )
    prefixes = ("/api/services", "/api/operations", "/api/traces", "/api/dependencies")
    return Dialect(prefixes, routes, context, shape)


def shape(refusal: Refusal) -> tuple[bytes, bytes]:
    """Jaeger says errors in its envelope."""
    error = {"code": refusal.status, "msg": refusal.message}
    return msgspec.json.encode(_envelope(None, [error])), b"application/json"


def _services(question: Question) -> Answer:
    return _listing(traces.services(question.view()))


def _service_operations(question: Question) -> Answer:
    found = traces.operations(question.view(), question.path["service"])
    return _listing(sorted({operation.name for operation in found}))


def _operations(question: Question) -> Answer:
    service = _wanted(question, "service")
    found = traces.operations(question.view(), service, question.text("spanKind"))
    return _listing([{"name": operation.name, "spanKind": operation.kind} for operation in found])


def _search(question: Question) -> Answer:
    if ids := question.form.get("traceID"):
        return _traces(traces.traces(question.view(), ids[: traces.TRACES_LIMIT]))
    start, end = _interval(question)
    found = traces.search(
        question.view(),
        _wanted(question, "service"),
        operation=question.text("operation"),
        tags=_tags(question),
        start=start,
        end=end,
        shortest=_duration(question, "minDuration", 0),
        longest=_duration(question, "maxDuration", _MOST),
        limit=_limit(question),
    )
    return _traces(found)


def _trace(question: Question) -> Answer:
    start, end = _interval(question, usual=None)
    found = traces.traces(question.view(), [question.path["id"]], start=start, end=end)
    if not found:
        raise Refusal(404, "not_found", "trace not found")
    return _traces(found)


def _dependencies(question: Question) -> Answer:
    end = _number(question, "endTs", time.time_ns() // 10**6) * 10**6
    start = end - _number(question, "lookback", 24 * 3600 * 1000) * 10**6
    found = traces.calls(question.view(), start=start, end=end)
    return _listing([{"parent": c.parent, "child": c.child, "callCount": c.number} for c in found])


def _traces(found: Sequence[Sequence[Span]]) -> Answer:
    return _listing([_trace_json(spans) for spans in found])


def _trace_json(spans: Sequence[Span]) -> dict[str, Any]:
    """One trace; senders that are alike are one process, p1, p2, … in the order in which they appear."""
    processes: dict[str, dict[str, Any]] = {}
    known: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
    shown = []
    for span in spans:
        key = (span.service, tuple(sorted(span.resource.items())))
        if key not in known:
            known[key] = f"p{len(known) + 1}"
            tags = {k: v for k, v in span.resource.items() if k != names.SERVICE}
            processes[known[key]] = {"serviceName": span.service, "tags": _tag_list(tags)}
        shown.append(_span_json(span, known[key]))
    return {"traceID": spans[0].trace, "spans": shown, "processes": processes, "warnings": None}


def _span_json(span: Span, process: str) -> dict[str, Any]:
    references = [_reference("CHILD_OF", span.trace, span.parent)] if span.parent else []
    references += [
        _reference("FOLLOWS_FROM", str(l.get("trace_id", "")), str(l.get("span_id", ""))) for l in span.links
    ]
    return {
        "traceID": span.trace,
        "spanID": span.id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start // _MICROSECOND,
        "duration": (span.end - span.start) // _MICROSECOND,
        "tags": _tags_of(span),
        "logs": [_log(event) for event in span.events],
        "processID": process,
        "warnings": None,
    }


def _tags_of(span: Span) -> list[dict[str, Any]]:
    """Attributes, and what Jaeger writes of kind, status and scope: its translation of OpenTelemetry."""
    found = _tag_list(span.attributes)
    if span.kind != "unspecified":
        found.append(_tag("span.kind", span.kind))
    if span.status != "unset":
        found.append(_tag("otel.status_code", span.status.upper()))
    if span.status == "error" and "error" not in span.attributes:
        found.append({"key": "error", "type": "bool", "value": True})
    if span.message:
        found.append(_tag("otel.status_description", span.message))
    if span.scope:
        found.append(_tag("otel.scope.name", span.scope))
    if span.session:
        found.append(_tag(names.SESSION, span.session))
    return found


def _tag_list(attributes: Mapping[str, str]) -> list[dict[str, Any]]:
    return [_tag(key, value) for key, value in sorted(attributes.items())]


def _tag(key: str, value: str) -> dict[str, Any]:
    """A tag with its type; attributes are stored as text, so the type is that of what the text says."""
    if value in ("true", "false"):
        return {"key": key, "type": "bool", "value": value == "true"}
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return {"key": key, "type": "int64", "value": int(value)}
    if re.fullmatch(r"-?(0|[1-9]\d{0,14})\.\d{1,15}", value):
        return {"key": key, "type": "float64", "value": float(value)}
    return {"key": key, "type": "string", "value": value}


def _log(event: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {str(key): str(value) for key, value in (event.get("attributes") or {}).items()}
    named = [_tag("event", str(event.get("name", "")))] if "event" not in attributes else []
    return {
        "timestamp": int(event.get("ts") or 0) // _MICROSECOND,
        "fields": [*named, *_tag_list(attributes)],
    }


def _reference(kind: str, trace: str, span: str) -> dict[str, str]:
    return {"refType": kind, "traceID": trace, "spanID": span}


def _interval(question: Question, usual: int | None = 48 * 3600 * 10**9) -> tuple[int, int]:
    """``start`` and ``end``, microseconds in the query; without them all time, or the last two days."""
    now = question.at() or time.time_ns()
    start = _number(question, "start", 0) * _MICROSECOND or (0 if usual is None else now - usual)
    end = _number(question, "end", 0) * _MICROSECOND or _MOST
    return start, end


def _number(question: Question, name: str, default: int) -> int:
    text = question.text(name)
    if not text:
        return default
    if not re.fullmatch(r"\d{1,15}|\d{16}", text):
        raise _wrong(f"{name}={text[:40]!r} is no whole number")
    return int(text)


def _limit(question: Question) -> int:
    number = _number(question, "limit", _LIMIT) or _LIMIT
    return min(number, traces.TRACES_LIMIT)


def _duration(question: Question, name: str, default: int) -> int:
    text = question.text(name)
    if not text:
        return default
    parts = _PART.findall(text[:100])
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise _wrong(f"{name}={text[:40]!r} is no duration; write 100ms, 1.5s, 2m")
    return min(round(sum(float(number) * _UNITS[unit] for number, unit in parts)), _MOST)


def _tags(question: Question) -> dict[str, str]:
    """``tags={"key":"value"}``, and ``tag=key:value``, which may be repeated."""
    found: dict[str, str] = {}
    for text in question.form.get("tags", []):
        if not text:
            continue
        try:
            given = msgspec.json.decode(text, type=dict[str, str | int | float | bool])
        except msgspec.DecodeError as error:
            raise _wrong(f'tags is no JSON object like {{"key":"value"}}: {error}') from None
        for key, value in given.items():
            found[key] = str(value).lower() if isinstance(value, bool) else str(value)
    for text in question.form.get("tag", []):
        key, colon, value = text.partition(":")
        if not colon:
            raise _wrong(f"tag={text[:40]!r} is not key:value")
        found[key] = value
    if len(found) > 50:
        raise _wrong("more than 50 tags")
    return found


def _wanted(question: Question, name: str) -> str:
    text = question.text(name)
    if not text:
        raise _wrong(f"parameter '{name}' is required")
    return text


def _listing(data: Sequence[Any]) -> Answer:
    return Answer(msgspec.json.encode(_envelope(data, None, total=len(data))))


def _envelope(data: Any, errors: Any, *, total: int = 0) -> dict[str, Any]:
    return {"data": data, "total": total, "limit": 0, "offset": 0, "errors": errors}


def _wrong(message: str) -> Refusal:
    return Refusal(400, "parameter", message)
