"""Parses LogQL: log queries, and metric queries around them."""

from __future__ import annotations

from misstep.core.errors import InputError
from misstep.store.logql.cursor import Cursor
from misstep.store.logql.expression import (
    Aggregation,
    Binary,
    Expression,
    Grouping,
    LogQuery,
    Metric,
    Number,
    Range,
)
from misstep.store.logql.pipeline import log_query
from misstep.store.logql.tokens import error

COUNTING = ("count_over_time", "rate", "bytes_over_time", "bytes_rate")
UNWRAPPING = ("sum_over_time", "avg_over_time", "min_over_time", "max_over_time")
_AGGREGATIONS = ("sum", "count", "avg", "min", "max")
_RANKING = ("topk", "bottomk")
_COMPARISONS = ("==", "!=", ">", ">=", "<", "<=")
_LEVELS = (_COMPARISONS, ("+", "-"), ("*", "/", "%"))
_CONVERSIONS = ("duration", "duration_seconds", "bytes")
_BINARY_LIMIT = 200


def parse(query: str) -> Expression:
    """The tree of a query.

    Raises:
        InputError: it is malformed or too large; the message says where.
    """
    cursor = Cursor(query)
    if cursor.token.kind == "end":
        raise InputError("parse error: the query is empty")
    found: Expression = log_query(cursor) if cursor.sees("{") else _binary(cursor, 0)
    if cursor.token.kind != "end":
        raise cursor.unexpected("the end")
    return found


def parse_log(query: str) -> LogQuery:
    """The tree of a query for lines.

    Raises:
        InputError: it is malformed, or asks for numbers.
    """
    found = parse(query)
    if not isinstance(found, LogQuery):
        raise InputError('parse error: a selector of lines is wanted here, like {event=""}')
    return found


def _binary(cursor: Cursor, level: int) -> Metric:
    if level == len(_LEVELS):
        return _power(cursor)
    left = _binary(cursor, level + 1)
    number = 0
    while op := cursor.accept(*_LEVELS[level]):
        number += 1
        if number > _BINARY_LIMIT:
            raise error(f"more than {_BINARY_LIMIT} operators in a row", cursor.token.place)
        as_bool = bool(level == 0 and cursor.accept("bool"))
        _no_matching(cursor)
        left = Binary(op, left, _binary(cursor, level + 1), as_bool)
    return left


def _power(cursor: Cursor) -> Metric:
    left = _operand(cursor)
    if not cursor.accept("^"):
        return left
    _no_matching(cursor)
    with cursor.deeper():
        return Binary("^", left, _power(cursor))


def _no_matching(cursor: Cursor) -> None:
    if cursor.sees("on", "ignoring", "group_left", "group_right"):
        raise error(
            "series are joined by equal labels only; on() and ignoring() are not known", cursor.token.place
        )


def _operand(cursor: Cursor) -> Metric:
    with cursor.deeper():
        if cursor.accept("-"):
            return Binary("-", Number(0.0), _operand(cursor))
        cursor.accept("+")
        if cursor.accept("("):
            found = _binary(cursor, 0)
            cursor.expect(")")
            return found
        if cursor.token.kind == "number":
            return Number(cursor.take().value)
        name = cursor.word("a function, a number or a selector")
        if name == "vector":
            return _vector(cursor)
        if name in (*_AGGREGATIONS, *_RANKING):
            return _aggregation(cursor, name)
        if name in (*COUNTING, *UNWRAPPING):
            return _range(cursor, name)
    known = ", ".join((*COUNTING, *UNWRAPPING, *_AGGREGATIONS, *_RANKING, "vector"))
    raise InputError(f"parse error: {name[:60]!r} is not known here; known are {known}")


def _vector(cursor: Cursor) -> Number:
    cursor.expect("(")
    sign = -1.0 if cursor.accept("-") else 1.0
    if cursor.token.kind != "number":
        raise cursor.unexpected("a number")
    value = cursor.take().value
    cursor.expect(")")
    return Number(sign * value, vector=True)


def _aggregation(cursor: Cursor, function: str) -> Aggregation:
    grouping = _grouping(cursor)
    cursor.expect("(")
    parameter = 0.0
    if function in _RANKING:
        if cursor.token.kind != "number":
            raise cursor.unexpected("a number of series")
        parameter = cursor.take().value
        cursor.expect(",")
    inner = _binary(cursor, 0)
    cursor.expect(")")
    grouping = grouping or _grouping(cursor)
    return Aggregation(function, inner, grouping or Grouping(()), parameter)


def _range(cursor: Cursor, function: str) -> Range:
    cursor.expect("(")
    query = log_query(cursor)
    window = _window(cursor) if cursor.sees("[") else None
    unwrap = _unwrap(cursor)
    offset = _offset(cursor)
    # Loki takes the window before and after a pipeline: {...}[5m] |= "x" and {...} |= "x" [5m].
    if window is not None and unwrap == ("", "") and cursor.sees("|", "|=", "|~", "!=", "!~"):
        raise error("write the window after the pipeline", cursor.token.place)
    if window is None:
        window = _window(cursor)
        offset = _offset(cursor)
    cursor.expect(")")
    if function in UNWRAPPING and not unwrap[0]:
        raise InputError(f"parse error: {function} needs a number: add `| unwrap LABEL` before its window")
    if function in COUNTING and function != "rate" and unwrap[0]:
        raise InputError(f"parse error: {function} counts lines; it takes no unwrap")
    return Range(function, query, window, offset, unwrap, _grouping(cursor))


def _unwrap(cursor: Cursor) -> tuple[str, str]:
    if not (cursor.sees("|") and cursor.after().text == "unwrap"):
        return "", ""
    cursor.take()
    cursor.take()
    if cursor.sees(*_CONVERSIONS) and cursor.after().text == "(":
        unit = "bytes" if cursor.take().text == "bytes" else "duration"
        cursor.expect("(")
        name = cursor.label()
        cursor.expect(")")
        return name, unit
    return cursor.label(), "number"


def _window(cursor: Cursor) -> int:
    cursor.expect("[")
    if cursor.token.kind != "duration":
        raise cursor.unexpected("a duration like 5m")
    token = cursor.take()
    cursor.expect("]")
    return _nanoseconds(token.value, token.place)


def _offset(cursor: Cursor) -> int:
    if not cursor.accept("offset"):
        return 0
    sign = -1 if cursor.accept("-") else 1
    if cursor.token.kind != "duration":
        raise cursor.unexpected("a duration like 5m")
    token = cursor.take()
    return sign * _nanoseconds(token.value, token.place) if token.value else 0


def _nanoseconds(seconds: float, place: int) -> int:
    found = round(seconds * 1e9) if seconds < 4e9 else 0
    if found <= 0:
        raise error("this duration is not between 1 ns and 100 years", place)
    return found


def _grouping(cursor: Cursor) -> Grouping | None:
    word = cursor.accept("by", "without")
    if not word:
        return None
    cursor.expect("(")
    names: list[str] = []
    while not cursor.sees(")"):
        names.append(cursor.label())
        if not cursor.accept(","):
            break
    cursor.expect(")")
    return Grouping(tuple(dict.fromkeys(names)), word == "without")
