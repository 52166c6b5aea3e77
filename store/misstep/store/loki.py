"""What Loki's API asks of the store: lines, numbers, labels, and how much there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from misstep.core.errors import InputError
from misstep.store.logql import labels
from misstep.store.logql.compile import Compiled
from misstep.store.logql.evaluate import Matrix, Result, Steps, evaluate, steps_of
from misstep.store.logql.expression import Aggregation, Expression, Grouping, LogQuery, Range, names_in
from misstep.store.logql.lines import Source, ask, between, names, select, source_of
from misstep.store.logql.parser import parse, parse_log
from misstep.store.logql.scope import Bound
from misstep.store.logql.shape import Entry

__all__ = ["Entry", "Expression", "LogQuery", "Matrix", "Stats", "Steps", "evaluate", "parse", "steps_of"]

LINES_LIMIT = 5000
"""Lines of one answer."""
VALUES_LIMIT = 10_000
"""Values of one label, or streams, in one answer."""
_FIELDS_SAMPLE = 1000


class Stats(NamedTuple):
    """How much a selector selects."""

    streams: int
    entries: int
    bytes: int


class Field(NamedTuple):
    """A label that lines have: its type as Loki names types, number of values, and the parsers that give it."""

    name: str
    kind: str
    values: int
    parsers: tuple[str, ...]


def lines(
    source: Source, query: LogQuery, *, start: int, end: int, limit: int = 100, newest: bool = True
) -> list[Entry]:
    """Lines with start <= ts < end, the newest first or the oldest first.

    Raises:
        InputError: the query or the limit is over a limit of ours.
        StorageError: the store cannot be read.
    """
    if not 0 < limit <= LINES_LIMIT:
        raise InputError(f"the limit must be from 1 to {LINES_LIMIT}")
    known = names(source, names_in(query), start, end)
    return select(source, query, known, start=start, end=end, limit=limit, newest=newest)


def label_names(source: Source, query: str, *, start: int, end: int) -> list[str]:
    """Names of the stream labels that lines with start <= ts < end have."""
    selected = _Selected(source, query, start, end)
    tests = ", ".join(f"bool_or({selected.label(name)} <> '')" for name in labels.STREAM)
    (row,) = selected.rows(f"SELECT {tests}")
    return sorted(name for name, there in zip(labels.STREAM, row, strict=True) if there)


def label_values(source: Source, name: str, query: str, *, start: int, end: int) -> list[str]:
    """Values of a label of lines with start <= ts < end, sorted; metadata too, at most `VALUES_LIMIT`."""
    name = labels.label_name(name)
    selected = _Selected(source, query, start, end, name)
    rows = selected.rows(
        f"SELECT DISTINCT {selected.label(name)} AS value", f"value <> '' ORDER BY value LIMIT {VALUES_LIMIT}"
    )
    return [str(row[0]) for row in rows]


def streams(source: Source, query: str, *, start: int, end: int) -> list[dict[str, str]]:
    """The streams that have lines with start <= ts < end, at most `VALUES_LIMIT`."""
    selected = _Selected(source, query, start, end)
    keys = ", ".join(selected.label(name) for name in labels.STREAM)
    rows = selected.rows(f"SELECT DISTINCT {keys}", f"true ORDER BY ALL LIMIT {VALUES_LIMIT}")
    return [{k: str(v) for k, v in zip(labels.STREAM, row, strict=True) if v} for row in rows]


def stats(source: Source, query: str, *, start: int, end: int) -> Stats:
    """How much there is with start <= ts < end."""
    selected = _Selected(source, query, start, end)
    keys = ", ".join(selected.label(name) for name in labels.STREAM)
    (row,) = selected.rows(f"SELECT count(DISTINCT ({keys})), count(*), coalesce(sum(strlen(l.body)), 0)")
    return Stats(int(row[0]), int(row[1]), int(row[2]))


def volume(
    source: Source, query: str, steps: Steps, *, targets: Sequence[str] = (), by_label: bool = False
) -> Result:
    """Bytes of lines in the step before each time, by stream labels.

    Args:
        source: where.
        query: a selector; its pipeline counts too.
        steps: when; each window is as long as a step.
        targets: labels to tell apart; by default those that the selector names.
        by_label: one series for each label and value, instead of one for each set of labels.
    """
    parsed = parse_log(query)
    wanted = tuple(labels.label_name(name) for name in targets) or tuple(m.name for m in parsed.matchers)
    wanted = tuple(dict.fromkeys(wanted)) or ("service_name",)
    counted = Range("bytes_over_time", parsed, steps.step)
    groups = [(name,) for name in wanted] if by_label else [wanted]
    found = [evaluate(source, Aggregation("sum", counted, Grouping(group)), steps) for group in groups]
    matrices = [matrix for matrix in found if isinstance(matrix, Matrix)]
    if len(matrices) == 1:
        return matrices[0]
    return Matrix([s for m in matrices for s in m.series], np.concatenate([m.values for m in matrices]))


def fields(source: Source, query: str, *, start: int, end: int) -> list[Field]:
    """Labels besides those of streams, as the newest lines have them, read as JSON or logfmt where they are."""
    parsed = parse_log(query)
    values: dict[str, set[str]] = {}
    parsers: dict[str, set[str]] = {}
    for stage in ("", "json", "logfmt"):
        asked = parse_log(f"{{}} | {stage}").stages if stage else ()
        whole = LogQuery(parsed.matchers, (*parsed.stages, *asked))
        known = names(source, names_in(whole), start, end)
        for one in select(source, whole, known, start=start, end=end, limit=_FIELDS_SAMPLE, newest=True):
            if stage == "logfmt" and one.line[:1] in "{[":
                continue
            found = one.parsed if stage else one.metadata
            for name, value in found.items():
                if not name.startswith("__"):
                    values.setdefault(name, set()).add(value)
                    parsers.setdefault(name, set()).update([stage] if stage else [])
    return [
        Field(name, _kind(own), len(own), tuple(sorted(parsers[name])))
        for name, own in sorted(values.items())
    ]


def _kind(values: set[str]) -> str:
    """The narrowest of Loki's types that all values have."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return "boolean" if values <= {"true", "false"} else "string"
    return "int" if all(number.is_integer() for number in numbers) else "float"


class _Selected:
    """Rows that a selector selects in an interval."""

    def __init__(self, source: Source, query: str, start: int, end: int, *wanted: str) -> None:
        parsed = parse_log(query) if query else LogQuery(())
        known = names(source, {*names_in(parsed), *wanted}, start, end)
        self._source, self._bound = source, Bound()
        self._compiled = Compiled(parsed, known, self._bound)
        self._where = f"{between(start, end)} AND ({self._compiled.where})"

    def label(self, name: str) -> str:
        return self._compiled.scope.stored(name)

    def rows(self, head: str, tail: str = "true") -> list[tuple[Any, ...]]:
        source = source_of(head, tail, self._where)
        return ask(self._source, f"{head} FROM {source} WHERE {self._where} AND {tail}", self._bound)
