"""Which columns and attributes of table ``logs`` are labels of a stream, and which are structured metadata.

A stream's labels are what people choose lines by and what has few values: session, event, level, kind of entity, the
sender's service and place, the file. Everything else that a line carries is metadata of that line. In a query both
are asked for alike; only selectors in braces and series that no ``by`` names are about streams.

Names are those of OpenTelemetry with every character but letters, digits and underscores replaced by an underscore,
as Loki does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from misstep.core import names

LEVELS = ("unknown", "trace", "debug", "info", "warn", "error", "critical")
"""By (OTLP severity number + 3) // 4; Loki calls OpenTelemetry's FATAL ``critical``."""

LEVEL = (
    "CASE WHEN l.severity BETWEEN 9 AND 12 THEN 'info' WHEN l.severity BETWEEN 17 AND 20 THEN 'error' "
    "WHEN l.severity BETWEEN 13 AND 16 THEN 'warn' WHEN l.severity BETWEEN 5 AND 8 THEN 'debug' "
    "WHEN l.severity BETWEEN 1 AND 4 THEN 'trace' WHEN l.severity BETWEEN 21 AND 24 THEN 'critical' ELSE 'unknown' END"
)

COLUMNS = {
    "session": "l.session",
    "event": "l.event",
    "entity_kind": "split_part(l.entity, '/', 1)",
    "level": LEVEL,
}
"""Stream labels that are columns, and the SQL of each."""

OF_RESOURCE = (
    names.SERVICE, "service.namespace", "deployment.environment", "deployment.environment.name", names.HOST_NAME,
    "k8s.cluster.name", "k8s.namespace.name", "k8s.pod.name", "k8s.container.name", "k8s.deployment.name",
    "k8s.statefulset.name", "k8s.daemonset.name", "k8s.job.name", "k8s.cronjob.name", "container.name", "cloud.region",
    "cloud.availability_zone",
)  # fmt: skip
"""Stream labels that stand in the resource; OpenTelemetry's own choice for Loki, and the host."""

OF_LINE = (names.FILE_PATH,)
"""Stream labels that stand in the line's attributes."""

METADATA = {
    "entity": "l.entity",
    "state": "l.state",
    "scope": "l.scope",
    "event_id": "l.event_id",
    "severity_text": "l.severity_text",
    "severity_number": "CAST(l.severity AS VARCHAR)",
    "trace_id": "lower(hex(l.trace_id))",
    "span_id": "lower(hex(l.span_id))",
    "detected_level": LEVEL,
}
"""Columns that are metadata, and the SQL of each."""

LINE = "CASE WHEN l.body <> '' THEN l.body ELSE trim(concat(l.event, ' ', l.state)) END"
"""The text of a line; an event without a body says its name."""

_FORBIDDEN = re.compile(r"[^A-Za-z0-9_]")


def label_name(key: str) -> str:
    """An attribute's key as the name of a label."""
    name = key if key.isidentifier() and key.isascii() else _FORBIDDEN.sub("_", key)
    return f"_{name}" if name[:1].isdigit() else name


STREAM = (*COLUMNS, *(label_name(key) for key in (*OF_RESOURCE, *OF_LINE)))
"""Names of all stream labels."""


def by_name(keys: Iterable[str]) -> dict[str, list[str]]:
    """The keys that stand behind each name."""
    found: dict[str, list[str]] = {}
    for key in sorted(keys):
        found.setdefault(label_name(key), []).append(key)
    return found


def level(severity: int | None) -> str:
    """The level of an OTLP severity number."""
    place = ((severity or 0) + 3) // 4
    return LEVELS[place] if 0 <= place < len(LEVELS) else LEVELS[0]


def of_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes as labels; empty values are none."""
    return {label_name(key): value for key, value in attributes.items() if value}
