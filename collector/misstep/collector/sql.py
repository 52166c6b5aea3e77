"""SQL for people: ``GET`` or ``POST /api/misstep/v1/sql``, run by a process that can only read."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from misstep.collector.api.operation import PREFIX, Context
from misstep.collector.dialect import Answer, Dialect, Question, Route
from misstep.collector.refusal import Refusal
from misstep.core.settings import Settings
from misstep.store.place import Place
from misstep.store.sandbox.handover import Other
from misstep.store.sandbox.runner import START_SECONDS, Bounds, Run

PATH = f"{PREFIX}/sql"
_AT_ONCE = 2
_GRACE_SECONDS = 5.0
_INCIDENTS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "session", "status", "severity", "cause", "title", "sentence", "layer")),
        *((name, pa.int64()) for name in ("onset_ns", "opened_ns", "updated_ns")),
        ("confidence", pa.float64()),
        ("body", pa.string()),
    ]
)  # fmt: skip
_SESSIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("session", "kind", "name", "state")),
        *((name, pa.int64()) for name in ("started", "ended", "heard")),
    ]
)


def dialect(context: Context, settings: Settings) -> Dialect:
    """The route, over the lake that the settings name."""
    options = settings.collector
    place = Place(settings.data / "lake", settings.store.catalog, settings.store.data)
    bounds = Bounds(seconds=options.sql_seconds, memory=options.sql_memory, rows=options.sql_rows)
    seconds = bounds.seconds + START_SECONDS + _GRACE_SECONDS
    route = Route(PATH, _Statements(place, bounds))
    return Dialect([PATH], [route], context, shape, seconds=seconds, threads=_AT_ONCE)


def shape(refusal: Refusal) -> tuple[bytes, bytes]:
    """An error as our own API says it."""
    return msgspec.json.encode({"error": refusal.message}), b"application/json"


class _Statements:
    """Runs statements within bounds.

    Args:
        place: where the lake lies.
        bounds: what one may take.
    """

    def __init__(self, place: Place, bounds: Bounds) -> None:
        self._place, self._bounds = place, bounds

    def __call__(self, question: Question) -> Answer:
        """Answer a question that holds a statement."""
        if question.headers.get(b"content-type", b"").startswith(b"application/json"):
            _take_json(question)
        sql = question.text("query")
        if not sql.strip():
            raise Refusal(400, "parameter", "the parameter query is missing; it holds a SELECT")
        run = Run(self._place, self._bounds._replace(rows=self._rows(question)))
        question.on_stop(run.stop)
        store, view = question.context.store, question.view()
        others = {
            "incidents": Other(_INCIDENTS, lambda: [_incident(i) for i in store.incidents(at=question.at())]),
            "sessions": Other(_SESSIONS, lambda: [row._asdict() for row in view.sessions()]),
        }
        return Answer(run.run(view, sql, others))

    def _rows(self, question: Question) -> int:
        text = question.text("limit")
        if not text:
            return self._bounds.rows
        if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) <= self._bounds.rows):
            raise Refusal(400, "parameter", f"limit is a whole number from 1 to {self._bounds.rows}")
        return int(text)


def _take_json(question: Question) -> None:
    """Parameters in a JSON object instead of a form."""
    try:
        found = msgspec.json.decode(question.body, type=dict[str, str | int | float])
    except msgspec.DecodeError as error:
        raise Refusal(400, "malformed", f"the body is no JSON object of texts and numbers: {error}") from None
    for name, value in found.items():
        question.form[name] = [str(value)]


def _incident(incident: dict[str, Any]) -> dict[str, Any]:
    row = {name: incident.get(name) for name in _INCIDENTS.names}
    return {**row, "body": msgspec.json.encode(incident).decode()}
