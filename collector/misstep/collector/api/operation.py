"""One question of the API, declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from misstep.collector.api.parameter import Parameter
from misstep.store.store import Store
from misstep.store.view import View

PREFIX = "/api/misstep/v1"
Schema = Mapping[str, Any]


class Progress(Protocol):
    """How far diagnosis has come."""

    def tick(self) -> int:
        """The last second that was diagnosed, Unix nanoseconds; 0 before the first."""
        ...

    def failures(self, session: str) -> Sequence[str]:
        """What kept the last diagnosis of a session from being made."""
        ...


class Context:
    """What handlers ask."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.store = store
        self.progress = progress

    def view(self, at: int | None) -> View:
        """The rows that had been received at a time; all of them for None."""
        return self.store.view(until=at)


@dataclass(frozen=True)
class Operation:
    """A GET.

    Attributes:
        path: below `PREFIX`; ``{id}`` is a parameter of the path.
        name: operation id.
        summary: one line.
        parameters: what the query may hold.
        answer: JSON schema of the 200.
        run: makes the answer out of context and parsed parameters (``id`` among them); it runs in a thread.
    """

    path: str
    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    answer: Schema
    run: Callable[[Context, dict[str, Any]], Any] = field(repr=False)


def listing(name: str, item: Schema, **others: Schema) -> Schema:
    """The schema of a page: the list, its cursor, and what else stands beside it."""
    properties: dict[str, Schema] = {
        name: {"type": "array", "items": item},
        "cursor": {"type": ["string", "null"]},
        **others,
    }
    return record(**properties)


def record(**properties: Schema) -> Schema:
    """The schema of an object of which every property is there and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT: Schema = {"type": "string"}
TIME: Schema = {"type": "integer", "description": "Unix nanoseconds"}
TIME_OR_NULL: Schema = {"type": ["integer", "null"], "description": "Unix nanoseconds"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
ATTRIBUTES: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
