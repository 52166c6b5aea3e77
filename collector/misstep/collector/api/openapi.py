"""The OpenAPI description, generated from the declarations of the operations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from misstep.collector.api.operation import PREFIX, TEXT, Operation, record
from misstep.collector.api.parameter import LIMIT_MOST, Parameter

_ERROR = record(error=TEXT)
_ERRORS = {
    "400": "a parameter is wrong; the message says what is accepted",
    "401": "the connection is not of a local user who may, and there is no valid token",
    "403": "Host, Origin or the token's scope is not admitted",
    "404": "there is no such thing",
    "429": "too many questions at once; Retry-After says when",
    "500": "the collector failed",
    "503": "the store cannot answer now",
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1, https://spec.openapis.org/oas/v3.1.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Misstep",
            "version": _version(),
            "description": "Sessions, entities, events and incidents, each as of a time.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {PREFIX + o.path: {"get": _operation(o)} for o in operations},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _ERROR},
        },
        # The second, empty way: a local user's own connection needs no token.
        "security": [{"token": []}, {}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [_parameter(p) for p in operation.parameters]
    if "{id}" in operation.path:
        parameters.insert(0, {"name": "id", "in": "path", "required": True, "schema": TEXT})
    answers: dict[str, Any] = {"200": {"description": "the answer", "content": _json(operation.answer)}}
    for status, meaning in _ERRORS.items():
        answers[status] = {"description": meaning, "content": _json({"$ref": "#/components/schemas/Error"})}
    return {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": answers,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schemas: dict[str, dict[str, Any]] = {
        "text": {"type": "string"},
        "texts": {"type": "array", "items": {"type": "string"}},
        "time": {
            "type": ["integer", "number", "string"],
            "description": "Unix nanoseconds (16 digits or more), Unix seconds, or RFC 3339",
        },
        "number": {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST},
        "flag": {"type": "boolean"},
    }
    schema = schemas[parameter.kind]
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.default is not None:
        schema["default"] = parameter.default
    return {"name": parameter.name, "in": "query", "description": parameter.meaning, "schema": schema}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


@functools.cache
def _version() -> str:
    try:
        return version("misstep")
    except PackageNotFoundError:
        return "0"
