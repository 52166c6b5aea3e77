"""Parses selectors and pipelines: ``{event=""} |= "error" | json | status >= 500``."""

from __future__ import annotations

import re
from collections.abc import Callable

from misstep.store.logql.cursor import Cursor
from misstep.store.logql.expression import (
    Both,
    Compare,
    Condition,
    Drop,
    Json,
    LabelFilter,
    LabelFormat,
    LineFilter,
    LineFormat,
    Logfmt,
    LogQuery,
    Matcher,
    Regexp,
    Stage,
    Template,
)
from misstep.store.logql.tokens import error

STAGES_LIMIT = 64
LINE_FILTERS = ("|=", "!=", "|~", "!~")
_TEXT_OPS = ("=", "!=", "=~", "!~")
_NUMBER_OPS = ("==", "=", "!=", ">", ">=", "<", "<=")
_GROUP = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?!\?)|\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>", re.DOTALL)
_HOLE = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)>")
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_FIELD = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)$|__line__$")


def log_query(cursor: Cursor) -> LogQuery:
    """A selector and its pipeline.

    Raises:
        InputError: it is malformed.
    """
    matchers = _selector(cursor)
    found: list[Stage] = []
    while cursor.sees("|", *LINE_FILTERS):
        if len(found) >= STAGES_LIMIT:
            raise error(f"more than {STAGES_LIMIT} stages", cursor.token.place)
        if cursor.sees("|") and cursor.after().text == "unwrap" and cursor.after().kind == "word":
            break
        found.append(_stage(cursor))
    return LogQuery(matchers, tuple(found))


def _selector(cursor: Cursor) -> tuple[Matcher, ...]:
    cursor.expect("{")
    found: list[Matcher] = []
    while not cursor.sees("}"):
        name = cursor.label()
        op = cursor.accept(*_TEXT_OPS)
        if not op:
            raise cursor.unexpected("one of = != =~ !~")
        found.append(Matcher(name, op, cursor.text()))
        if not cursor.accept(","):
            break
    cursor.expect("}")
    return tuple(found)


def _stage(cursor: Cursor) -> Stage:
    if op := cursor.accept(*LINE_FILTERS):
        return _line_filter(cursor, op)
    cursor.expect("|")
    stage = _STAGES.get(cursor.token.text) if cursor.token.kind == "word" else None
    # `| json = "x"` asks for a label that happens to be called json.
    if stage is not None and cursor.after().text not in (*_TEXT_OPS, *_NUMBER_OPS):
        cursor.take()
        return stage(cursor)
    return LabelFilter(_condition(cursor))


def _line_filter(cursor: Cursor, op: str) -> LineFilter:
    if cursor.sees("ip"):
        raise error("ip() filters are not known here; use a regular expression", cursor.token.place)
    values = [cursor.text()]
    while cursor.accept("or"):
        values.append(cursor.text())
    return LineFilter(op, tuple(values))


def _json(cursor: Cursor) -> Json:
    pairs = _pairs(cursor)
    return Json(tuple((label, _path(text, place)) for label, text, place in pairs))


def _logfmt(cursor: Cursor) -> Logfmt:
    return Logfmt(tuple((label, text) for label, text, _ in _pairs(cursor)))


def _pairs(cursor: Cursor) -> list[tuple[str, str, int]]:
    """``label="path", other`` after a parser."""
    found: list[tuple[str, str, int]] = []
    while cursor.token.kind == "word" and not cursor.sees("or", "and"):
        name, place = cursor.label(), cursor.token.place
        found.append((name, cursor.text() if cursor.accept("=") else name, place))
        if not cursor.accept(","):
            break
    return found


def _path(text: str, place: int) -> tuple[str | int, ...]:
    """``a.b[0]["c d"]`` as its steps."""
    found: list[str | int] = []
    rest = text
    while rest:
        match = re.match(r"\.?([A-Za-z_][\w-]*)|\[(\d{1,6})\]|\[\"([^\"\]]+)\"\]", rest)
        if match is None:
            raise error(f"{text[:60]!r} is no path like a.b[0]", place)
        name, index, quoted = match.groups()
        found.append(int(index) if index is not None else str(name if name is not None else quoted))
        rest = rest[match.end() :]
    if not found:
        raise error("an empty path names nothing", place)
    return tuple(found)


def _regexp(cursor: Cursor) -> Regexp:
    place = cursor.token.place
    pattern = cursor.text("a regular expression")
    groups = tuple(
        match[1] or "" for match in _GROUP.finditer(pattern) if match[0] == "(" or match[1] is not None
    )
    if not any(groups):
        raise error("the expression has no named group like (?P<name>...)", place)
    return Regexp(pattern.replace("(?<", "(?P<"), groups)


def _pattern(cursor: Cursor) -> Regexp:
    """``<ip> - <_> "<path>"`` is a regular expression in which each name stands for the shortest text that fits."""
    place = cursor.token.place
    text = cursor.text("a pattern")
    expression, groups, end = "(?s)^", [], 0
    for match in _HOLE.finditer(text):
        if match.start() == end and end:
            raise error("two names in a row say not where one ends", place)
        literal = re.escape(text[end : match.start()])
        last = match.end() == len(text)
        named = match[1] != "_"
        expression += literal + ("(" if named else "(?:") + (".*" if last else ".*?") + ")"
        groups += [match[1]] if named else []
        end = match.end()
    if not groups:
        raise error("the pattern has no name like <path>", place)
    return Regexp(expression + re.escape(text[end:]), tuple(groups))


def _line_format(cursor: Cursor) -> LineFormat:
    return LineFormat(_template(cursor))


def _label_format(cursor: Cursor) -> LabelFormat:
    found: list[tuple[str, Template]] = []
    while True:
        name = cursor.label()
        cursor.expect("=")
        if cursor.token.kind == "word":
            found.append((name, Template(((True, cursor.label()),))))
        else:
            found.append((name, _template(cursor)))
        if not cursor.accept(","):
            return LabelFormat(tuple(found))


def _template(cursor: Cursor) -> Template:
    """A text with ``{{.label}}`` in it; functions of Go's templates are not known."""
    place = cursor.token.place
    text = cursor.text("a template")
    parts: list[tuple[bool, str]] = []
    end = 0
    for match in _ACTION.finditer(text):
        field = _FIELD.match(match[1])
        if field is None:
            raise error(f"{match[0][:60]!r} is not known here; only {{{{.label}}}} is", place)
        parts += [(False, text[end : match.start()]), (True, field[1] or "__line__")]
        end = match.end()
    parts.append((False, text[end:]))
    return Template(tuple(part for part in parts if part != (False, "")))


def _drop(cursor: Cursor, keep: bool = False) -> Drop:
    names = [cursor.label()]
    while cursor.accept(","):
        names.append(cursor.label())
    if cursor.sees("=", "!=", "=~", "!~"):
        raise error("drop and keep by value are not known here; filter first", cursor.token.place)
    return Drop(tuple(names), keep)


def _keep(cursor: Cursor) -> Drop:
    return _drop(cursor, keep=True)


def _decolorize(cursor: Cursor) -> LineFilter:
    """Nothing to do: colours are the reader's to strip."""
    return LineFilter("|=", ("",))


def _condition(cursor: Cursor) -> Condition:
    found = _conjunction(cursor)
    while cursor.accept("or"):
        found = Both("or", found, _conjunction(cursor))
    return found


def _conjunction(cursor: Cursor) -> Condition:
    found = _comparison(cursor)
    while cursor.accept("and", ",") or cursor.sees("("):
        found = Both("and", found, _comparison(cursor))
    return found


def _comparison(cursor: Cursor) -> Condition:
    if cursor.accept("("):
        with cursor.deeper():
            found = _condition(cursor)
        cursor.expect(")")
        return found
    name = cursor.label()
    op = cursor.accept(*_TEXT_OPS, *_NUMBER_OPS)
    if not op:
        raise cursor.unexpected("a comparison like = or >")
    if cursor.token.kind == "text":
        if op not in _TEXT_OPS:
            raise cursor.unexpected("a number, duration or size")
        return Compare(name, op, cursor.take().text, "text")
    sign = -1.0 if cursor.accept("-") else 1.0
    if cursor.token.kind not in ("number", "duration", "bytes") or op not in _NUMBER_OPS:
        raise cursor.unexpected("a quoted text" if op in _TEXT_OPS else "a number, duration or size")
    token = cursor.take()
    return Compare(name, "==" if op == "=" else op, sign * token.value, token.kind)


_STAGES: dict[str, Callable[[Cursor], Stage]] = {
    "json": _json,
    "logfmt": _logfmt,
    "regexp": _regexp,
    "pattern": _pattern,
    "line_format": _line_format,
    "label_format": _label_format,
    "drop": _drop,
    "keep": _keep,
    "decolorize": _decolorize,
}
