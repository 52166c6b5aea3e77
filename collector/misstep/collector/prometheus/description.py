"""This API in OpenAPI's words."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string"}
_TIME = {
    "oneOf": [{"type": "number"}, {"type": "string", "format": "date-time"}],
    "description": "Unix seconds or RFC 3339",
}
_DURATION = {"type": "string", "description": "seconds, or a duration such as 1h30m"}
_LIMIT = {"type": "integer", "minimum": 0, "maximum": 1_000_000_000}
_AT = ("at", False, _TIME, "only what was known then")
_QUERY = ("query", True, _TEXT, "PromQL")
_RANGE = (("start", False, _TIME, "not before"), ("end", False, _TIME, "not after"))
_MATCH = ("match[]", False, {"type": "array", "items": _TEXT}, "selectors; a series matches any of them")
_MOST = ("limit", False, _LIMIT, "at most so many entries, 0 for all")
_TIMEOUT = ("timeout", False, _DURATION, "after which the query is ended")

_LABELS = {"type": "object", "additionalProperties": _TEXT}
_TEXTS = {"type": "array", "items": _TEXT}
_RESULT = {
    "type": "object",
    "properties": {
        "resultType": {"enum": ["scalar", "string", "vector", "matrix"]},
        "result": {"type": "array"},
    },
    "required": ["resultType", "result"],
}
_ERROR = {
    "type": "object",
    "properties": {"status": {"const": "error"}, "errorType": _TEXT, "error": _TEXT},
    "required": ["status", "errorType", "error"],
}
_ERRORS = {
    "400": "a parameter is missing or wrong",
    "401": "no token, and the connection is not of a local user who may",
    "403": "Host, Origin or the token's scope is not admitted",
    "404": "there is no such path",
    "405": "another method is served",
    "422": "the query cannot be carried out",
    "429": "too many questions at once",
    "500": "the collector failed",
    "503": "the query took too long, or the store cannot answer",
}

_OPERATIONS: tuple[tuple[str, str, bool, tuple[Any, ...], Any], ...] = (
    ("query", "The answer at one time", True, (_QUERY, ("time", False, _TIME, "now if left out"), _TIMEOUT, _MOST, _AT), _RESULT),
    (
        "query_range",
        "The answer at every step",
        True,
        (
            _QUERY,
            ("start", True, _TIME, "the first step"),
            ("end", True, _TIME, "no step is later"),
            ("step", True, _DURATION, "between steps"),
            _TIMEOUT,
            _MOST,
            _AT,
        ),
        _RESULT,
    ),
    (
        "query_exemplars",
        "Exemplars of a query's series",
        True,
        (_QUERY, ("start", True, _TIME, "not before"), ("end", True, _TIME, "not after"), _AT),
        {"type": "array"},
    ),
    ("format_query", "The query, indented", True, (_QUERY,), _TEXT),
    ("series", "Label sets", True, (("match[]", True, _MATCH[2], _MATCH[3]), *_RANGE, _MOST, _AT), {"type": "array", "items": _LABELS}),
    ("labels", "Names of labels", True, (_MATCH, *_RANGE, _MOST, _AT), _TEXTS),
    ("label/{name}/values", "Values of a label", False, (_MATCH, *_RANGE, _MOST, _AT), _TEXTS),
    (
        "metadata",
        "Type and unit of metrics",
        False,
        (("metric", False, _TEXT, "only of this one"), ("limit_per_metric", False, _LIMIT, "entries of each"), _MOST, _AT),
        {"type": "object"},
    ),
    ("rules", "None yet", False, (), {"type": "object"}),
    ("alerts", "None yet", False, (), {"type": "object"}),
    ("status/buildinfo", "Which version of Prometheus' API this is", False, (), {"type": "object"}),
)  # fmt: skip


def document() -> dict[str, Any]:
    """OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Misstep, as Prometheus", "version": "1"},
        "paths": {f"/api/v1/{path}": _methods(path, *rest) for path, *rest in _OPERATIONS},
    }


def _methods(path: str, summary: str, posts: bool, parameters: tuple[Any, ...], data: Any) -> dict[str, Any]:
    answers = {"200": _content("the answer", _success(data))}
    answers |= {status: _content(meaning, _ERROR) for status, meaning in _ERRORS.items()}
    named = [
        {"name": name, "in": "query", "required": required, "schema": schema, "description": meaning}
        for name, required, schema, meaning in parameters
    ]
    if "{name}" in path:
        named.insert(0, {"name": "name", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}})
    word = path.replace("/{name}/", "_").replace("/", "_")
    found: dict[str, Any] = {
        "get": {"operationId": f"get_{word}", "summary": summary, "parameters": named, "responses": answers}
    }
    if posts:
        form = {
            "type": "object",
            "properties": {name: schema for name, _, schema, _ in parameters},
            "required": [name for name, required, _, _ in parameters if required],
        }
        body = {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": form}}}
        found["post"] = {
            "operationId": f"post_{word}", "summary": summary, "requestBody": body, "responses": answers,
        }  # fmt: skip
    return found


def _success(data: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"status": {"const": "success"}, "data": data, "warnings": _TEXTS},
        "required": ["status", "data"],
    }


def _content(meaning: str, schema: Any) -> dict[str, Any]:
    return {"description": meaning, "content": {"application/json": {"schema": schema}}}
