"""Evaluates metric queries: DuckDB counts by series and window, numpy combines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.core.errors import InputError
from misstep.store.logql import labels
from misstep.store.logql.compile import Compiled, number
from misstep.store.logql.expression import (
    Aggregation,
    Binary,
    Grouping,
    Metric,
    Number,
    Range,
    names_in,
)
from misstep.store.logql.lines import Source, ask, between, names, source_of
from misstep.store.logql.scope import Bound

STEPS_LIMIT = 11_000
"""Steps of one answer, as Prometheus has it."""
SERIES_LIMIT = 5000
CELLS_LIMIT = 10_000_000
"""Series times steps."""
_GROUPS_LIMIT = 2_000_000
"""Rows of counts that DuckDB may give back."""
_NOT_ADDED = ("avg_over_time", "min_over_time", "max_over_time")
_WINDOWS_LIMIT = 50_000_000
"""Additions for windows that overlap."""

Values = NDArray[np.float64]
Labels = dict[str, str]


class Steps(NamedTuple):
    """The times at which a query is evaluated, Unix nanoseconds: `start`, and `number` - 1 times `step` later."""

    start: int
    step: int
    number: int


class Matrix(NamedTuple):
    """Series with their values, shape (series, steps); NaN where a series has none."""

    series: list[Labels]
    values: Values


Result = Matrix | float


def evaluate(source: Source, expression: Metric, steps: Steps) -> Result:
    """The value of a metric query.

    Raises:
        InputError: it is over a limit.
        StorageError: the store cannot be read.
    """
    if steps.number > STEPS_LIMIT:
        raise InputError(f"more than {STEPS_LIMIT} steps; ask with a longer step or a shorter time")
    # What divides by zero or overflows is infinite or not a number, as in Loki.
    with np.errstate(all="ignore"):
        return _evaluate(source, expression, steps, None)


def steps_of(start: int, end: int, step: int) -> Steps:
    """The steps from start to end, both included.

    Raises:
        InputError: there are none, or too many.
    """
    if step <= 0 or end < start:
        raise InputError("the step must be positive, and the end not before the start")
    return Steps(start, step, (end - start) // step + 1)


def _evaluate(
    source: Source, expression: Metric, steps: Steps, wanted: Grouping | None, *, whole: bool = False
) -> Result:
    """Evaluate a part.

    Args:
        source: where.
        expression: the part.
        steps: when.
        wanted: labels that an aggregation around it asks for.
        whole: whether it sums by these and nothing else matters.
    """
    match expression:
        case Number(value, vector):
            return Matrix([{}], np.full((1, steps.number), value)) if vector else value
        case Range():
            return _range(source, expression, steps, _identity(expression, wanted, whole))
        case Aggregation():
            # A sum of counts is the count of the sum: then DuckDB need not tell more series apart than are asked for.
            whole = expression.function == "sum" and not expression.grouping.without
            inner = _evaluate(source, expression.inner, steps, expression.grouping, whole=whole)
            if not isinstance(inner, Matrix):
                raise InputError(f"{expression.function} wants series, not a number")
            return _aggregate(expression, inner)
        case Binary():
            left = _evaluate(source, expression.left, steps, wanted)
            right = _evaluate(source, expression.right, steps, wanted)
            return _binary(expression, left, right)


def _range(source: Source, expression: Range, steps: Steps, identity: list[str]) -> Matrix:
    """Count lines or sum their numbers for each series and each step's window, start < ts <= end of the window."""
    last = steps.start + (steps.number - 1) * steps.step
    start = steps.start - expression.offset - expression.window + 1
    end = last - expression.offset + 1
    name, unit = expression.unwrap
    known = names(source, {*names_in(expression.query), *identity, *([name] if name else [])}, start, end)
    bound = Bound()
    compiled = Compiled(expression.query, known, bound)
    keys = [compiled.scope.label(key) for key in identity]
    if name:
        weight = number(compiled.scope.label(name), unit)
        what = "sum(w), count(w), min(w), max(w)"
    else:
        weight = f"strlen({compiled.scope.line})" if expression.function.startswith("bytes") else "1"
        what = "sum(w)::DOUBLE"
    ahead = expression.offset - steps.start
    first = f"greatest(0, (l.ts + {ahead + steps.step - 1}) // {steps.step})"
    final = f"least({steps.number - 1}, (l.ts + {ahead + expression.window - 1}) // {steps.step})"
    columns = "".join(f"{key} AS k{i}, " for i, key in enumerate(keys))
    inner = f"{columns}{first} AS first, {final} AS final, {weight} AS w"
    rows = ask(
        source,
        f"SELECT {''.join(f'k{i}, ' for i in range(len(keys)))}first, final, {what} "
        f"FROM (SELECT {inner} FROM {source_of(inner, compiled.where)} "
        f"WHERE {between(start, end)} AND ({compiled.where})) "
        f"WHERE w IS NOT NULL AND first <= final GROUP BY ALL LIMIT {_GROUPS_LIMIT + 1}",
        bound,
    )
    if len(rows) > _GROUPS_LIMIT:
        raise InputError(f"more than {_GROUPS_LIMIT} counts; narrow the selector or sum by fewer labels")
    return _matrix(expression, identity, rows, steps)


def _identity(expression: Range, wanted: Grouping | None, whole: bool) -> list[str]:
    """Names that tell the series of a range apart.

    Loki tells series apart by every label a line has, task ids and parsed values included; here those of the stream
    and what an aggregation around asks for do.
    """
    names: Iterable[str]
    own = expression.grouping
    if whole and own is None and wanted is not None and expression.function not in _NOT_ADDED:
        names = wanted.names
    elif own is not None:
        names = own.names if not own.without else (n for n in labels.STREAM if n not in own.names)
    else:
        asked = wanted.names if wanted is not None and not wanted.without else ()
        names = (*labels.STREAM, *asked)
    return list(dict.fromkeys(names))


def _matrix(expression: Range, identity: list[str], rows: list[tuple[object, ...]], steps: Steps) -> Matrix:
    numbers: dict[tuple[object, ...], int] = {}
    width = len(identity)
    owner = np.array([numbers.setdefault(row[:width], len(numbers)) for row in rows], np.int64)
    _check(len(numbers), steps.number)
    if not rows:
        return Matrix([], np.zeros((0, steps.number)))
    rest = np.array([row[width:] for row in rows], np.float64)
    first, last = rest[:, 0].astype(np.int64), rest[:, 1].astype(np.int64)
    series = [
        {name: str(value) for name, value in zip(identity, key, strict=True) if value} for key in numbers
    ]
    values = _windows(expression.function, owner, first, last, rest[:, 2:], (len(numbers), steps.number))
    if "rate" in expression.function:
        values /= expression.window / 1e9
    return Matrix(series, values)


def _windows(
    function: str,
    owner: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    found: Values,
    shape: tuple[int, int],
) -> Values:
    """Spread each group's values over all the windows that hold it."""
    if found.shape[1] <= 1:
        # Whole numbers: what a window gains at its first step it loses after its last, without rounding.
        change = np.zeros((shape[0], shape[1] + 1), np.int64)
        whole = found[:, 0].astype(np.int64)
        np.add.at(change, (owner, first), whole)
        np.add.at(change, (owner, last + 1), -whole)
        values = np.cumsum(change, axis=1)[:, :-1].astype(np.float64)
        presence = np.zeros_like(change)
        np.add.at(presence, (owner, first), 1)
        np.add.at(presence, (owner, last + 1), -1)
        values[np.cumsum(presence, axis=1)[:, :-1] == 0] = np.nan
        return values
    place, column = {
        "sum_over_time": (np.add, 0), "rate": (np.add, 0), "avg_over_time": (np.add, 0),
        "min_over_time": (np.minimum, 2), "max_over_time": (np.maximum, 3),
    }[function]  # fmt: skip
    width = int((last - first).max()) + 1
    if width * len(first) > _WINDOWS_LIMIT:
        raise InputError("its windows overlap too often; ask with a longer step or a shorter window")
    values = np.full(shape, 0.0 if place is np.add else math.inf if place is np.minimum else -math.inf)
    number = np.zeros(shape)
    for ahead in range(width):
        held = first + ahead <= last
        at = owner[held], first[held] + ahead
        place.at(values, at, found[held, column])
        np.add.at(number, at, found[held, 1])
    if function == "avg_over_time":
        values /= number
    values[number == 0] = np.nan
    return values


def _aggregate(expression: Aggregation, inner: Matrix) -> Matrix:
    keys: dict[tuple[tuple[str, str], ...], int] = {}
    grouping = expression.grouping
    owner = np.array(
        [
            keys.setdefault(
                tuple(sorted((k, v) for k, v in own.items() if (k in grouping.names) != grouping.without)),
                len(keys),
            )
            for own in inner.series
        ],
        np.int64,
    )
    if expression.function in ("topk", "bottomk"):
        return _rank(expression, inner, owner)
    there = ~np.isnan(inner.values)
    shape = (len(keys), inner.values.shape[1])
    number = np.zeros(shape)
    np.add.at(number, owner, there.astype(np.float64))
    place = {"min": np.minimum, "max": np.maximum}.get(expression.function, np.add)
    neutral = {"min": math.inf, "max": -math.inf}.get(expression.function, 0.0)
    values = np.full(shape, neutral)
    place.at(values, owner, np.where(there, inner.values, neutral))
    if expression.function == "avg":
        values /= number
    elif expression.function == "count":
        values = number.copy()
    values[number == 0] = np.nan
    return Matrix([dict(key) for key in keys], values)


def _rank(expression: Aggregation, inner: Matrix, owner: NDArray[np.int64]) -> Matrix:
    """At each step the k largest or smallest series of each group."""
    sign = -1.0 if expression.function == "topk" else 1.0
    kept = np.full_like(inner.values, np.nan)
    most = max(0, int(min(expression.parameter, len(inner.series))))
    for group in np.unique(owner):
        rows = np.flatnonzero(owner == group)
        # NaN sorts last on both ways.
        order = np.argsort(sign * inner.values[rows], axis=0, kind="stable")[:most]
        chosen = rows[order]
        columns = np.arange(inner.values.shape[1])[None, :]
        kept[chosen, columns] = inner.values[chosen, columns]
    told = np.flatnonzero(~np.all(np.isnan(kept), axis=1))
    return Matrix([inner.series[i] for i in told], kept[told])


def _binary(expression: Binary, left: Result, right: Result) -> Result:
    if isinstance(left, Matrix):
        if isinstance(right, Matrix):
            return _joined(expression, left, right)
        return Matrix(left.series, _combine(expression, left.values, right))
    if isinstance(right, Matrix):
        return Matrix(right.series, _combine(expression, left, right.values))
    as_number = Binary(expression.op, expression.left, expression.right, as_bool=True)
    return float(_combine(as_number, left, right))


def _joined(expression: Binary, left: Matrix, right: Matrix) -> Matrix:
    """Series of both sides that have the same labels."""
    by_labels = {tuple(sorted(own.items())): i for i, own in enumerate(right.series)}
    pairs = [
        (i, by_labels[key])
        for i, own in enumerate(left.series)
        if (key := tuple(sorted(own.items()))) in by_labels
    ]
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    values = _combine(expression, left.values[rows[:, 0]], right.values[rows[:, 1]])
    return Matrix([left.series[i] for i, _ in pairs], values)


def _combine(expression: Binary, left: Values | float, right: Values | float) -> Values:
    """One operator on arrays of one shape, or on an array and a number."""
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if expression.op in _ARITHMETIC:
        return np.asarray(_ARITHMETIC[expression.op](a, b), np.float64)
    holds = _COMPARISONS[expression.op](a, b)
    absent = np.isnan(a) | np.isnan(b)
    if expression.as_bool:
        return np.where(absent, np.nan, holds.astype(np.float64))
    shown = a if a.ndim else b
    return np.where(holds & ~absent, shown, np.nan)


def _check(series: int, steps: int) -> None:
    if series > SERIES_LIMIT or series * steps > CELLS_LIMIT:
        raise InputError(
            f"{series} series at {steps} steps are over the limit of {SERIES_LIMIT} series and {CELLS_LIMIT} values; "
            "narrow the selector, or sum by fewer labels"
        )


_ARITHMETIC: dict[str, Callable[[Values, Values], Values]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Values, Values], NDArray[np.bool_]]] = {
    "==": np.equal, "!=": np.not_equal, ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal,
}  # fmt: skip
