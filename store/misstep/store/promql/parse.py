"""From text to tree, by the ``promql-parser`` package, behind a guard against what would hurt it.

That parser is a library of Rust: it recurses on its own stack, and its time grows with the square of the depth. So
the number of operators and brackets is bounded before it sees a text. Times after ``@`` are replaced by their index,
since it cannot say times before 1970 and rounds others.
"""

from __future__ import annotations

import functools
import re
from datetime import timedelta
from typing import Any

import promql_parser

from misstep.store.promql import syntax
from misstep.store.promql.errors import malformed
from misstep.store.promql.syntax import Matching, Moment, Node

LENGTH_MOST = 128 * 1024
"""Characters of a query."""
MARKS_MOST = 600
"""Operators and opening brackets of a query."""
DEPTH_MOST = 150
"""Levels of a tree."""

_NUMBER = r"(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])"
_DURATION = r"(?:\d+(?:\.\d+)?(?:ms|[smhdwy]))+"
_TOKEN = re.compile(
    r"(?P<string>\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`)"
    r"|(?P<comment>\#[^\n]*)"
    rf"|@(?P<at>\s*[+-]?\s*(?:{_DURATION}|{_NUMBER})(?![\w.]))"
    r"|(?P<mark>[(\[{+\-*/%^<>=!]|\b(?:and|or|unless|atan2)\b)",
    re.IGNORECASE | re.DOTALL,
)
_UNITS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
_MILLISECOND = 1_000_000
_FARTHEST = 1 << 62
_MICROSECOND = timedelta(microseconds=1)
_SYMBOLS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
_BROKEN_BYTE = re.compile(r"\\(?:x[89a-fA-F][0-9a-fA-F]|[23][0-7]{2})")


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Node:
    """The tree of a query.

    Raises:
        QueryError: ``bad_data``; it is not PromQL, or too large or deep to be looked at.
    """
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_MOST:
            raise malformed(f"query of {len(text)} characters; {LENGTH_MOST} are accepted")
        if not text.strip():
            raise malformed("unknown position: parse error: no expression found in input")
        self._moments: list[int] = []
        self._broken = bool(_BROKEN_BYTE.search(text))
        self._marks = 0
        self._text = _TOKEN.sub(self._look, text)
        if self._marks > MARKS_MOST:
            raise malformed(f"query of {self._marks} operators and brackets; {MARKS_MOST} are accepted")

    def read(self) -> Node:
        _know_old_names()
        try:
            tree = promql_parser.parse(self._text)
        except ValueError as error:
            raise malformed(f'invalid parameter "query": parse error: {error}') from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":
                raise malformed("the query cannot be parsed") from error
            raise
        return self._node(tree, 0)

    def _look(self, found: re.Match[str]) -> str:
        if found["mark"]:
            self._marks += 1
        if found["at"] is None:
            return found[0]
        self._moments.append(_moment(found["at"]))
        return f"@ {len(self._moments) - 1} "

    def _node(self, e: Any, depth: int) -> Node:
        if depth > DEPTH_MOST:
            raise malformed(f"query of more than {DEPTH_MOST} levels")
        below = depth + 1
        match type(e).__name__:
            case "NumberLiteral":
                return syntax.Number(float(e.val))
            case "StringLiteral":
                return syntax.Text(_bytes_marked(e.val) if self._broken else e.val)
            case "ParenExpr":
                return self._node(e.expr, below)
            case "UnaryExpr":
                return syntax.Negate(self._node(e.expr, below))
            case "VectorSelector":
                return self._selector(e)
            case "MatrixSelector":
                return syntax.Range(self._selector(e.vector_selector), _ns(e.range))
            case "SubqueryExpr":
                return syntax.Subquery(
                    self._node(e.expr, below), _ns(e.range), _ns(e.step), self._moment(e.at, e.offset)
                )
            case "BinaryExpr":
                return syntax.Binary(
                    str(e.op).lower(),
                    self._node(e.lhs, below),
                    self._node(e.rhs, below),
                    bool(e.modifier and e.modifier.return_bool),
                    _matching(e.modifier),
                )
            case "AggregateExpr":
                return self._aggregate(e, below)
            case "Call":
                arguments = tuple(self._node(a, below) for a in e.args)
                if e.func.name == "info":
                    raise malformed("the function info() is experimental and not supported")
                return syntax.Call(e.func.name, arguments)
        raise malformed(f"{type(e).__name__} is not supported")

    def _aggregate(self, e: Any, depth: int) -> Node:
        labels = tuple(e.modifier.labels) if e.modifier else ()
        without = bool(e.modifier) and str(e.modifier.type).endswith("Without")
        parameter = None if e.param is None else self._node(e.param, depth)
        return syntax.Aggregate(str(e.op).lower(), self._node(e.expr, depth), parameter, labels, without)

    def _selector(self, e: Any) -> syntax.Selector:
        if e.matchers.or_matchers:
            raise malformed('invalid parameter "query": parse error: unexpected "or" in label matching')
        matchers = [
            syntax.Matcher(m.name, _SYMBOLS[str(m.op).rpartition(".")[2]], m.value)
            for m in e.matchers.matchers
        ]
        if e.name is not None:
            matchers.insert(0, syntax.Matcher("__name__", "=", e.name))
        return syntax.Selector(tuple(matchers), self._moment(e.at, e.offset))

    def _moment(self, at: Any, offset: timedelta | None) -> Moment:
        if at is None:
            return Moment(None, _ns(offset))
        word = str(at.type).rpartition(".")[2].lower()
        if word in ("start", "end"):
            return Moment("start" if word == "start" else "end", _ns(offset))
        return Moment(self._moments[round(at.at.timestamp())], _ns(offset))


def _bytes_marked(text: str) -> str:
    """The parser reads the escape of a byte as a character; as a surrogate it is seen to be no UTF-8."""
    return "".join(chr(0xDC00 + ord(c)) if 0x80 <= ord(c) <= 0xFF else c for c in text)


@functools.cache
def _know_old_names() -> None:
    """``holt_winters`` was the name of double_exponential_smoothing before Prometheus 3."""
    value = promql_parser.ValueType
    promql_parser.register_extra_functions(
        [promql_parser.Function("holt_winters", [value.Matrix, value.Scalar, value.Scalar], value.Vector)]
    )


def _matching(modifier: Any) -> Matching:
    if modifier is None:
        return Matching()
    given = modifier.matching
    card = str(modifier.card).rpartition(".")[2]
    fill = modifier.fill_values
    return Matching(
        given is not None and str(given.type).endswith("Include"),
        tuple(given.labels) if given is not None else (),
        {"ManyToOne": "left", "OneToMany": "right"}.get(card, ""),
        tuple(modifier.group_labels or ()),
        (fill.lhs, fill.rhs) if fill is not None else (None, None),
    )


def _moment(text: str) -> int:
    """Nanoseconds of what stands after ``@``."""
    text = "".join(text.split()).lower()
    sign = -1 if text[0] == "-" else 1
    text = text.lstrip("+-")
    if re.fullmatch(_DURATION, text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdwy])", text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) / 1000
    else:
        seconds = float(int(text, 16)) if text.startswith("0x") else float(text)
    if not abs(seconds) * 1e9 < _FARTHEST:
        raise malformed(f"timestamp out of bounds for @ modifier: {text}")
    return sign * round(seconds * 1000) * _MILLISECOND


def _ns(given: timedelta | None) -> int:
    if given is None:
        return 0
    found = given // _MICROSECOND * 1000
    if abs(found) >= _FARTHEST:
        raise malformed("duration out of range")
    return found
