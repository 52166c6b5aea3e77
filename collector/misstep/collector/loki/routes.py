"""The routes of Loki's API."""

from __future__ import annotations

import re

import numpy as np

from misstep.collector.api.operation import Context
from misstep.collector.dialect import Answer, Dialect, Question, Route
from misstep.collector.loki import answers
from misstep.collector.loki.times import HOUR, interval, moment, step
from misstep.collector.refusal import Refusal
from misstep.collector.telemetry import Stopwatch
from misstep.store import loki

PREFIX = "/loki/api/v1"
_LINES = 100
_LABELS_HOURS = 6
_CATEGORIZE = b"categorize-labels"
_SELECTOR = re.compile(r"\{[^{}]*\}")


def dialect(context: Context) -> Dialect:
    """Loki's API over what the context has."""
    routes = {
        "query": _query,
        "query_range": _query_range,
        "labels": _labels,
        "label": _labels,
        "label/{name}/values": _label_values,
        "series": _series,
        "index/stats": _index_stats,
        "index/volume": _index_volume,
        "index/volume_range": _index_volume_range,
        "detected_labels": _detected_labels,
        "detected_fields": _detected_fields,
        "detected_field/{name}/values": _detected_values,
        "patterns": _patterns,
        "status/buildinfo": _buildinfo,
        "drilldown-limits": _limits,
    }
    made = [Route(f"{PREFIX}/{path}", handler) for path, handler in routes.items()]
    return Dialect(["/loki/"], made, context, answers.shape)


def _query(question: Question) -> Answer:
    watch = Stopwatch()
    parsed = loki.parse(_text(question, "query"))
    if isinstance(parsed, loki.LogQuery):
        raise Refusal(400, "query", "log queries are not supported as an instant query type, use query_range")
    at = moment(question, "time", question.at() or _now(question))
    found = loki.evaluate(question.view(), parsed, loki.Steps(at, 1, 1))
    return answers.vector(found, at, seconds=watch.seconds())


def _query_range(question: Question) -> Answer:
    watch = Stopwatch()
    parsed = loki.parse(_text(question, "query"))
    start, end = interval(question)
    if isinstance(parsed, loki.LogQuery):
        direction = question.text("direction", "backward").lower()
        if direction not in ("backward", "forward"):
            raise Refusal(400, "parameter", "direction is backward or forward")
        entries = loki.lines(
            question.view(),
            parsed,
            start=start,
            end=end,
            limit=_limit(question),
            newest=direction == "backward",
        )
        flags = question.headers.get(b"x-loki-response-encoding-flags", b"")
        return answers.streams(entries, categorize=_CATEGORIZE in flags, seconds=watch.seconds())
    steps = loki.steps_of(start, end, step(question, start, end))
    return answers.matrix(loki.evaluate(question.view(), parsed, steps), steps, seconds=watch.seconds())


def _labels(question: Question) -> Answer:
    start, end = interval(question, _LABELS_HOURS * HOUR)
    return answers.success(loki.label_names(question.view(), question.text("query"), start=start, end=end))


def _label_values(question: Question) -> Answer:
    start, end = interval(question, _LABELS_HOURS * HOUR)
    found = loki.label_values(
        question.view(), question.path["name"], question.text("query"), start=start, end=end
    )
    return answers.success(found)


def _series(question: Question) -> Answer:
    start, end = interval(question, _LABELS_HOURS * HOUR)
    selectors = question.form.get("match[]") or question.form.get("match") or [""]
    found = {
        tuple(sorted(stream.items())): stream
        for selector in selectors[:50]
        for stream in loki.streams(question.view(), selector, start=start, end=end)
    }
    return answers.success(list(found.values()))


def _index_stats(question: Question) -> Answer:
    start, end = interval(question)
    found = loki.stats(question.view(), question.text("query"), start=start, end=end)
    # Nothing here is kept in chunks; a stream stands for one.
    return answers.plain(
        {"streams": found.streams, "chunks": found.streams, "entries": found.entries, "bytes": found.bytes}
    )


def _index_volume(question: Question) -> Answer:
    watch = Stopwatch()
    start, end = interval(question)
    # A window has its end and not its start: start <= ts < end.
    matrix = _volume(question, loki.Steps(end - 1, max(end - start, 1), 1))
    order = np.argsort(-matrix.values[:, 0], kind="stable")[: _limit(question)]
    largest = loki.Matrix([matrix.series[i] for i in order], matrix.values[order])
    return answers.vector(largest, end, seconds=watch.seconds(), ordered=False)


def _index_volume_range(question: Question) -> Answer:
    watch = Stopwatch()
    start, end = interval(question)
    steps = loki.steps_of(start, end, step(question, start, end))
    matrix = _volume(question, steps)
    order = np.argsort(-np.nansum(matrix.values, axis=1), kind="stable")[: _limit(question)]
    largest = loki.Matrix([matrix.series[i] for i in order], matrix.values[order])
    return answers.matrix(largest, steps, seconds=watch.seconds())


def _volume(question: Question, steps: loki.Steps) -> loki.Matrix:
    targets = [name for name in question.text("targetLabels").split(",") if name]
    by_label = question.text("aggregateBy") == "labels"
    found = loki.volume(question.view(), _text(question, "query"), steps, targets=targets, by_label=by_label)
    return found if isinstance(found, loki.Matrix) else loki.Matrix([], np.zeros((0, steps.number)))


def _detected_labels(question: Question) -> Answer:
    start, end = interval(question)
    view, selector = question.view(), question.text("query")
    found = [
        {"label": name, "cardinality": len(loki.label_values(view, name, selector, start=start, end=end))}
        for name in loki.label_names(view, selector, start=start, end=end)
    ]
    return answers.plain({"detectedLabels": found})


def _detected_fields(question: Question) -> Answer:
    start, end = interval(question)
    found = loki.fields(question.view(), _text(question, "query"), start=start, end=end)
    shown = [
        {"label": f.name, "type": f.kind, "cardinality": f.values, "parsers": list(f.parsers) or None}
        for f in found[: _limit(question, 1000)]
    ]
    return answers.plain({"fields": shown, "limit": _limit(question, 1000)})


def _detected_values(question: Question) -> Answer:
    """Values of metadata; of what a parser would find, none are listed."""
    start, end = interval(question)
    selector = _SELECTOR.match(question.text("query").strip())
    found = loki.label_values(
        question.view(), question.path["name"], selector[0] if selector else "", start=start, end=end
    )
    return answers.plain({"values": found[: _limit(question, 1000)]})


def _patterns(question: Question) -> Answer:
    """Lines are not clustered here."""
    return answers.success([])


def _buildinfo(question: Question) -> Answer:
    """Grafana asks which Loki it is; the version stands for the part of the API that is served."""
    return answers.plain({"version": "3.5.0", "revision": "misstep", "branch": "", "buildUser": "", "buildDate": "", "goVersion": ""})  # fmt: skip


def _limits(question: Question) -> Answer:
    """What Logs Drilldown asks before it starts."""
    limits = {
        "max_entries_limit_per_query": loki.LINES_LIMIT,
        "volume_enabled": True,
        "discover_service_name": [],
    }
    return answers.plain({"limits": limits, "pattern_ingester_enabled": False, "version": "3.5.0"})


def _limit(question: Question, default: int = _LINES) -> int:
    text = question.text("limit") or question.text("line_limit")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= loki.LINES_LIMIT):
        raise Refusal(
            400, "parameter", f"limit={text[:50]!r} is not a whole number from 1 to {loki.LINES_LIMIT}"
        )
    return int(text)


def _text(question: Question, name: str) -> str:
    text = question.text(name)
    if not text.strip():
        raise Refusal(400, "parameter", f"the parameter {name} is missing")
    return text


def _now(question: Question) -> int:
    return interval(question)[1]
