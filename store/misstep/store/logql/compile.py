"""Compiles selectors and pipelines to conditions in SQL."""

from __future__ import annotations

from misstep.core.errors import InputError
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
)
from misstep.store.logql.scope import Bound, Names, Scope
from misstep.store.logql.tokens import BYTES, SECONDS

_REGEX = ("=~", "!~", "|~")
_NEGATIVE = ("!=", "!~")


class Compiled:
    """A query as SQL.

    Attributes:
        where: condition on a row `l` of ``logs``, with its resource `r`.
        scope: what names mean after the last stage.
        extracted: SQL of each label that a regular expression made, in order.
    """

    def __init__(self, query: LogQuery, names: Names, bound: Bound) -> None:
        """Compile.

        Raises:
            InputError: it grows too large.
        """
        self.scope = Scope(names, bound)
        self.extracted: list[str] = []
        self._bound = bound
        conditions = [self._matcher(matcher) for matcher in query.matchers]
        for stage in query.stages:
            if condition := self._stage(stage):
                conditions.append(condition)
        self.where = " AND ".join(conditions) or "true"
        if len(self.where) > 1_000_000:
            raise InputError("the query is too large")

    def _matcher(self, matcher: Matcher) -> str:
        return self._text(self.scope.stored(matcher.name), matcher.op, matcher.value)

    def _text(self, sql: str, op: str, value: str) -> str:
        place = self._bound(value)
        if op in _REGEX:
            found = f"regexp_full_match({sql}, {place}, 's')"
            return f"NOT {found}" if op in _NEGATIVE else found
        return f"{sql} {'<>' if op in _NEGATIVE else '='} {place}"

    def _stage(self, stage: Stage) -> str:
        scope = self.scope
        match stage:
            case LineFilter(op, values):
                function = "regexp_matches" if op in _REGEX or op == "!~" else "contains"
                tests = [f"{function}({scope.line}, {self._bound(value)})" for value in values if value]
                if not tests:
                    return "" if op in ("|=", "|~") else "false"
                found = "(" + " OR ".join(tests) + ")"
                return f"NOT {found}" if op in _NEGATIVE else found
            case Json() | Logfmt():
                scope.parse(stage)
            case Regexp(pattern, groups):
                line, place = scope.line, self._bound(pattern)
                for number, name in enumerate(groups, 1):
                    if name:
                        sql = f"regexp_extract({line}, {place}, {number})"
                        self.extracted.append(sql)
                        scope.make(name, sql)
            case LabelFilter(condition):
                return self._condition(condition)
            case LineFormat(template):
                scope.line = scope.template(template)
            case LabelFormat(assignments):
                made = [(name, scope.template(template)) for name, template in assignments]
                for name, sql in made:
                    scope.make(name, sql)
            case Drop(names, keep):
                scope.drop(names, keep=keep)
        return ""

    def _condition(self, condition: Condition) -> str:
        if isinstance(condition, Both):
            left, right = self._condition(condition.left), self._condition(condition.right)
            return f"({left} {condition.op.upper()} {right})"
        return self._compare(condition)

    def _compare(self, compare: Compare) -> str:
        sql = self.scope.label(compare.name)
        if isinstance(compare.value, str):
            return self._text(sql, compare.op, compare.value)
        op = {"==": "=", "!=": "<>"}.get(compare.op, compare.op)
        return f"coalesce({number(sql, compare.unit)} {op} {self._bound(compare.value)}, false)"


def number(sql: str, unit: str) -> str:
    """SQL of a label read as a number, as seconds or as bytes; NULL where it is none."""
    if unit == "number":
        return f"TRY_CAST({sql} AS DOUBLE)"
    scale = SECONDS if unit == "duration" else BYTES
    units = "|".join(sorted(scale, key=len, reverse=True))
    cases = " ".join(f"WHEN '{name}' THEN {factor!r}" for name, factor in scale.items())
    part = rf"[0-9]+(?:\.[0-9]+)?\s*(?:{units})"
    return (
        f"CASE WHEN regexp_full_match(lower({sql}), '(?:{part})+') THEN list_sum(list_transform("
        f"regexp_extract_all(lower({sql}), '{part}'), lambda p: CAST(regexp_extract(p, '^[0-9.]+') AS DOUBLE) * "
        f"CASE regexp_extract(p, '[^0-9.\\s]+$') {cases} END)) ELSE TRY_CAST({sql} AS DOUBLE) END"
    )
