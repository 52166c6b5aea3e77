"""Everything but queries: labels, series, metadata, exemplars, and what is empty until there is any."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from misstep.collector.api.openapi import _version
from misstep.collector.dialect import Answer, Question
from misstep.collector.prometheus import render
from misstep.collector.prometheus.description import document
from misstep.collector.prometheus.errors import PrometheusRefusal
from misstep.collector.prometheus.parameters import alternatives, limit, moment, query_text, warnings
from misstep.store import selection
from misstep.store.promql.query import selectors
from misstep.store.promql.syntax import Selector
from misstep.store.series_index import Known

_TYPES = {
    "gauge": "gauge", "sum": "counter", "updown": "gauge", "sum_non_monotonic": "gauge", "delta": "gauge",
    "histogram": "histogram", "summary": "summary",
}  # fmt: skip
_EXEMPLARS_MOST = 10_000
_FAMILY = (
    "CASE WHEN kind IN ('histogram', 'summary') "
    "THEN regexp_replace(coalesce(nullif(prometheus, ''), name), '_(bucket|sum|count)$', '') "
    "ELSE coalesce(nullif(prometheus, ''), name) END"
)
"""The metric of a series; those of a histogram are of one."""


def series(question: Question) -> Answer:
    """The label sets of the series that match."""
    chosen, most = alternatives(question, required=True), limit(question)
    found = _known(question, chosen)
    order = found.labels.order()
    cut = bool(most) and len(order) > most
    rows = list(found.labels.take(order[:most] if cut else order).rows())
    return Answer(render.document(rows, [*warnings(question), *([render.TRUNCATED] if cut else [])]))


def labels(question: Question) -> Answer:
    """Names of labels."""
    found = _known(question, alternatives(question))
    names = sorted(name for name, column in found.labels.columns.items() if column.codes.any())
    return _listed(question, names)


def label_values(question: Question) -> Answer:
    """Values of one label."""
    name = _unescaped(question.path["name"])
    found = _known(question, alternatives(question))
    return _listed(question, selection.values(found, name))


def metadata(question: Question) -> Answer:
    """Type and unit of metrics; nobody sends a help text."""
    wanted, most = question.text("metric"), limit(question)
    per = question.text("limit_per_metric")
    if per and not per.isdigit():
        raise PrometheusRefusal("bad_data", "limit_per_metric must be a number")
    rows = question.view().ask(
        f"SELECT DISTINCT {_FAMILY} AS metric, kind, coalesce(unit, '') AS unit FROM {{series}} "
        + (f"WHERE {_FAMILY} = ? " if wanted else "")
        + "ORDER BY metric, kind, unit",
        [wanted] if wanted else [],
    )
    found: dict[str, list[dict[str, str]]] = {}
    for metric, kind, unit in rows:
        if most and len(found) >= most and metric not in found:
            break
        known = found.setdefault(metric, [])
        if not per or int(per) <= 0 or len(known) < int(per):
            known.append({"type": _TYPES.get(kind, "unknown"), "unit": unit, "help": ""})
    return Answer(render.document(found, warnings(question)))


def exemplars(question: Question) -> Answer:
    """Exemplars of the series that a query's selectors choose."""
    start, end = moment(question, "start"), moment(question, "end")
    if end < start:
        raise PrometheusRefusal(
            "bad_data", 'invalid parameter "end": end timestamp must not be before start time'
        )
    chosen = [node.matchers for node in selectors(query_text(question)) if isinstance(node, Selector)]
    found = question.view().known(chosen) if chosen else None
    if found is None or not len(found.ids):
        return Answer(render.document([], warnings(question)))
    place = {int(id): number for number, id in enumerate(found.ids.tolist())}
    metrics = ", ".join(map(str, np.unique(found.metrics).tolist()))
    rows = question.view().ask(
        "SELECT series_id, ts, value, hex(trace_id), hex(span_id), labels FROM {exemplars} "
        f"WHERE metric IN ({metrics}) AND ts >= ? AND ts <= ? ORDER BY series_id, ts, seq LIMIT {_EXEMPLARS_MOST}",
        [start, end],
    )
    groups: dict[int, list[dict[str, Any]]] = {}
    for id, ts, value, trace, span, own in rows:
        if id in place:
            ids = {"trace_id": (trace or "").lower(), "span_id": (span or "").lower()}
            told = {**(own or {}), **{key: text for key, text in ids.items() if text}}
            groups.setdefault(place[id], []).append(
                {"labels": told, "value": render.number(value), "timestamp": json.loads(render.moment(ts))}
            )
    data = [{"seriesLabels": found.labels.row(number), "exemplars": own} for number, own in groups.items()]
    return Answer(render.document(data, warnings(question)))


def rules(question: Question) -> Answer:
    """None yet."""
    return Answer(render.document({"groups": []}))


def alerts(question: Question) -> Answer:
    """None yet."""
    return Answer(render.document({"alerts": []}))


def buildinfo(question: Question) -> Answer:
    """Whose language and API this is; data sources look at the version to know what they may ask."""
    return Answer(
        render.document(
            {
                "version": "3.5.0",
                "revision": f"misstep-{_version()}",
                "branch": "",
                "buildUser": "",
                "buildDate": "",
                "goVersion": "",
            }
        )
    )


def description(question: Question) -> Answer:
    """The OpenAPI description."""
    return Answer(json.dumps(document()).encode())


def _known(question: Question, chosen: list[tuple[Any, ...]]) -> Known:
    start = moment(question, "start") if question.text("start") else None
    end = moment(question, "end") if question.text("end") else None
    if start is not None and end is not None and end < start:
        raise PrometheusRefusal("bad_data", "end timestamp must not be before start timestamp")
    return question.view().known(chosen, start, end)


def _listed(question: Question, found: list[str]) -> Answer:
    most = limit(question)
    cut = bool(most) and len(found) > most
    told = [*warnings(question), *([render.TRUNCATED] if cut else [])]
    return Answer(render.document(found[:most] if cut else found, told))


def _unescaped(name: str) -> str:
    """``U__a_2e_b`` is how clients write names that are no plain labels."""
    if not name.startswith("U__"):
        return name
    import re

    text = re.sub(
        r"_([0-9a-fA-F]{1,6})_", lambda found: chr(int(found[1], 16) % 0x110000), name[3:].replace("__", "\0")
    )
    return text.replace("\0", "_")
