"""The tables that hot memory and the lake share, and the version of their shape."""

from __future__ import annotations

from typing import NamedTuple

VERSION = 1
"""Raised when tables or journal change; a store of a newer version is refused, never guessed at."""


class Table(NamedTuple):
    """A table, its columns in order, and how a seal sorts it."""

    name: str
    columns: tuple[tuple[str, str], ...]
    order: tuple[str, ...]

    @property
    def names(self) -> str:
        """Column names, comma separated."""
        return ", ".join(name for name, _ in self.columns)

    @property
    def ddl(self) -> str:
        """Columns with types, as CREATE TABLE wants them."""
        return ", ".join(f"{name} {kind}" for name, kind in self.columns)


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
RESOURCES = Table(
    "resources",
    (("resource", "UBIGINT"), ("attributes", "MAP(VARCHAR, VARCHAR)"), ("seq", "BIGINT")),
    ("resource",),
)

TABLES = (REQUESTS, SERIES, SAMPLES, LOGS, RESOURCES)
