"""The tables that hot memory and the lake share, and the version of their shape."""

from __future__ import annotations

from typing import NamedTuple

VERSION = 2
"""Raised when tables or journal change; a store of a newer version is refused, never guessed at."""


class Table(NamedTuple):
    """A table, its columns in order, and how a seal sorts it."""

    name: str
    columns: tuple[tuple[str, str], ...]
    order: tuple[str, ...]

    @property
    def names(self) -> str:
        """Column names, quoted and comma separated."""
        return ", ".join(f'"{name}"' for name, _ in self.columns)

    @property
    def ddl(self) -> str:
        """Columns with types, as CREATE TABLE wants them."""
        return ", ".join(f'"{name}" {kind}' for name, kind in self.columns)

    @property
    def sort(self) -> str:
        """The columns of `order`, quoted and comma separated."""
        return ", ".join(f'"{name}"' for name in self.order)


REQUESTS = Table(
    "requests",
    (
        ("seq", "BIGINT"),
        ("received", "BIGINT"),
        ("signal", "VARCHAR"),
        ("agent", "VARCHAR"),
        ("boot", "VARCHAR"),
        ("agent_seq", "BIGINT"),
        ("bytes", "BIGINT"),
        ("verdict", "BLOB"),
    ),
    ("seq",),
)
SERIES = Table(
    "series",
    (
        ("series_id", "UBIGINT"),
        ("metric", "UINTEGER"),
        ("name", "VARCHAR"),
        ("labels", "MAP(VARCHAR, VARCHAR)"),
        ("kind", "VARCHAR"),
        ("unit", "VARCHAR"),
        ("session", "VARCHAR"),
        ("resource", "UBIGINT"),
        ("seq", "BIGINT"),
        ("prometheus", "VARCHAR"),
    ),
    ("name", "series_id"),
)
# Metric first: a hashed series id alone scatters a metric over every row group.
SAMPLES = Table(
    "samples",
    (
        ("metric", "UINTEGER"),
        ("series_id", "UBIGINT"),
        ("ts", "BIGINT"),
        ("value", "DOUBLE"),
        ("seq", "BIGINT"),
    ),
    ("metric", "series_id", "ts", "seq"),
)
LOGS = Table(
    "logs",
    (
        ("seq", "BIGINT"),
        ("row", "INTEGER"),
        ("ts", "BIGINT"),
        ("observed", "BIGINT"),
        ("event", "VARCHAR"),
        ("severity", "TINYINT"),
        ("severity_text", "VARCHAR"),
        ("session", "VARCHAR"),
        ("entity", "VARCHAR"),
        ("state", "VARCHAR"),
        ("event_id", "VARCHAR"),
        ("scope", "VARCHAR"),
        ("body", "VARCHAR"),
        ("attributes", "MAP(VARCHAR, VARCHAR)"),
        ("resource", "UBIGINT"),
        ("trace_id", "BLOB"),
        ("span_id", "BLOB"),
    ),
    ("event", "session", "seq", "row"),
)
EXEMPLARS = Table(
    "exemplars",
    (
        ("series_id", "UBIGINT"),
        ("metric", "UINTEGER"),
        ("ts", "BIGINT"),
        ("value", "DOUBLE"),
        ("trace_id", "BLOB"),
        ("span_id", "BLOB"),
        ("labels", "MAP(VARCHAR, VARCHAR)"),
        ("seq", "BIGINT"),
    ),
    ("metric", "series_id", "ts", "seq"),
)
# `events` and `links` are JSON, as `spans` writes it: they are shown with their span and never asked for alone.
SPANS = Table(
    "spans",
    (
        ("seq", "BIGINT"),
        ("row", "INTEGER"),
        ("trace_id", "BLOB"),
        ("span_id", "BLOB"),
        ("parent_span_id", "BLOB"),
        ("name", "VARCHAR"),
        ("kind", "TINYINT"),
        ("service", "VARCHAR"),
        ("start", "BIGINT"),
        ("end", "BIGINT"),
        ("status", "TINYINT"),
        ("status_message", "VARCHAR"),
        ("session", "VARCHAR"),
        ("attributes", "MAP(VARCHAR, VARCHAR)"),
        ("events", "VARCHAR"),
        ("links", "VARCHAR"),
        ("scope", "VARCHAR"),
        ("resource", "UBIGINT"),
    ),
    ("service", "start", "seq", "row"),
)
RESOURCES = Table(
    "resources",
    (("resource", "UBIGINT"), ("attributes", "MAP(VARCHAR, VARCHAR)"), ("seq", "BIGINT")),
    ("resource",),
)

TABLES = (REQUESTS, SERIES, SAMPLES, LOGS, RESOURCES, EXEMPLARS, SPANS)
