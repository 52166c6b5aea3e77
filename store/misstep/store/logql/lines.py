"""Selects lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import duckdb

from misstep.core.errors import InputError, StorageError
from misstep.store.logql import labels
from misstep.store.logql.compile import Compiled
from misstep.store.logql.expression import LogQuery
from misstep.store.logql.scope import Bound, Names
from misstep.store.logql.shape import Entry, entry

_PLACE = re.compile(r"\$(\d+)")
LINE_LIMIT = 256 * 1024
"""Characters of a line that are returned; filters see all of it."""

_RESOURCES = "(SELECT resource, any_value(attributes) AS attributes FROM {resources} GROUP BY resource)"
_SOURCE = f"{{logs}} l LEFT JOIN {_RESOURCES} r ON r.resource = l.resource"

_COLUMNS = {**labels.COLUMNS, **labels.METADATA}
_SHOWN = [name for name in _COLUMNS if name not in ("detected_level", "severity_number")]


class Source(Protocol):
    """Where tables are read: a `View`."""

    def ask(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query in which ``{logs}`` and ``{resources}`` stand for tables."""
        ...


def names(source: Source, wanted: Iterable[str], start: int, end: int) -> Names:
    """The attributes behind the names of a query.

    Args:
        source: where.
        wanted: names in a query; only where one is not always there are the lines themselves asked.
        start: Unix nanoseconds.
        end: Unix nanoseconds.

    Raises:
        StorageError: the store cannot be read.
    """
    always = {*labels.OF_RESOURCE, *labels.OF_LINE}
    if set(wanted) <= {*labels.STREAM, *labels.METADATA, "__error__"}:
        return Names(always, always)
    keys = "SELECT DISTINCT unnest(map_keys({})) FROM {}"
    line = source.ask(keys.format("l.attributes", f"{{logs}} l WHERE {between(start, end)}"))
    resource = source.ask(keys.format("attributes", "{resources}"))
    return Names(always | {str(row[0]) for row in line}, always | {str(row[0]) for row in resource})


def select(
    source: Source, query: LogQuery, known: Names, *, start: int, end: int, limit: int, newest: bool
) -> list[Entry]:
    """Lines with start <= ts < end that a query selects, in the order of their times.

    Args:
        source: where.
        query: which.
        known: of `names`.
        start: Unix nanoseconds.
        end: Unix nanoseconds.
        limit: at most so many.
        newest: the limit keeps the last ones, and the order is falling.

    Raises:
        InputError: a regular expression is none.
        StorageError: the store cannot be read.
    """
    bound = Bound()
    compiled = Compiled(query, known, bound)
    order = "DESC" if newest else "ASC"
    shown = ", ".join(f"coalesce({_COLUMNS[name]}, '')" for name in _SHOWN)
    extracted = "".join(f", {sql}" for sql in compiled.extracted)
    where = f"({compiled.where})"
    span = _span(source, compiled, f"{between(start, end)} AND {where}", bound, limit, newest=newest)
    if span is None:
        return []
    rows = ask(
        source,
        f"SELECT l.ts, left({labels.LINE}, {LINE_LIMIT}), l.attributes, r.attributes, {shown}{extracted} "
        f"FROM {_SOURCE} WHERE {between(span[0], span[1] + 1)} AND {where} "
        f"ORDER BY l.ts {order}, l.seq {order}, l.row {order} LIMIT {limit}",
        bound,
    )
    end_of_shown = 4 + len(_SHOWN)
    return [
        entry(query, row[0], row[1], dict(zip(_SHOWN, row[4:end_of_shown], strict=True)), row[2] or {}, row[3] or {}, row[end_of_shown:])
        for row in rows
    ]  # fmt: skip


def _span(
    source: Source, compiled: Compiled, where: str, bound: Bound, limit: int, *, newest: bool
) -> tuple[int, int] | None:
    """First and last time of the lines within the limit, found by time alone: whole lines are read and sorted dearly."""
    order = "DESC" if newest else "ASC"
    (row,) = ask(
        source,
        f"SELECT min(ts), max(ts) FROM (SELECT l.ts FROM {source_of(compiled.where)} "
        f"WHERE {where} ORDER BY l.ts {order} LIMIT {limit})",
        bound,
    )
    return None if row[0] is None else (int(row[0]), int(row[1]))


def source_of(*parts: str) -> str:
    """Lines, with their resources as `r` where one of these parts of a statement names them."""
    return _SOURCE if any("r.attributes" in part for part in parts) else "{logs} l"


def between(start: int, end: int) -> str:
    """The condition start <= ts < end."""
    return f"l.ts >= {int(start)} AND l.ts < {int(end)}"


def ask(source: Source, query: str, bound: Bound) -> list[tuple[Any, ...]]:
    """Run a statement whose parts a query of a user made.

    Raises:
        InputError: what the user wrote is at fault, most often a regular expression.
        StorageError: the store cannot be read.
    """
    used = sorted({int(number) for number in _PLACE.findall(query)})
    places = {number: f"${place}" for place, number in enumerate(used, 1)}
    numbered = _PLACE.sub(lambda match: places[int(match[1])], query)
    try:
        return source.ask(numbered, [bound.values[number - 1] for number in used])
    except StorageError as error:
        cause = error.__cause__
        if isinstance(
            cause, (duckdb.InvalidInputException, duckdb.OutOfRangeException, duckdb.ConversionException)
        ):
            # DuckDB names the kind of error first and the statement in further lines.
            said = str(cause).partition(": ")[2].partition("\n")[0]
            raise InputError(f"the query cannot be run: {said}") from error
        raise
