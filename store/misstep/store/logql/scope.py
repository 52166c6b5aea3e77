"""What a name means at a place in a pipeline, as SQL over one row of ``logs`` (`l`) and its resource (`r`)."""

from __future__ import annotations

import re
from itertools import product

from misstep.core.errors import InputError
from misstep.store.logql import labels
from misstep.store.logql.expression import Json, Logfmt, Template

_SQL_LIMIT = 200_000
"""Characters of SQL that one expression may grow to: templates within templates double it each time."""
_LAST_WORD = re.compile(r"^.*?([A-Za-z0-9]*)$", re.DOTALL)
_NESTED = 5
"""Underscores of a name that may each stand for a step into a JSON object."""
_EXTRACTED = "_extracted"
_BRACE = "{{"
"""One brace, in SQL whose single braces name tables."""

OBJECT = "CASE WHEN json_valid({0}) THEN json_type({0}) = 'OBJECT' ELSE false END"
_LOGFMT_PAIRS = r"(?s)^\s*(?:[^\s=\"]+(?:=(?:\"(?:[^\"\\]|\\.)*\"|[^\s\"]*))?\s+)*?"
_LOGFMT_VALUE = r"=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\"]*))(?:\s|$)"


class Bound:
    """Values of a statement's numbered parameters; equal ones share a number."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self._numbers: dict[tuple[type, object], str] = {}

    def __call__(self, value: str | float) -> str:
        """The place that stands for a value."""
        key = (type(value), value)
        if key not in self._numbers:
            self.values.append(value)
            self._numbers[key] = f"${len(self.values)}"
        return self._numbers[key]


class Names:
    """The attributes there are, by the labels' names.

    Args:
        line: keys of the attributes of lines.
        resource: keys of the attributes of resources.
    """

    def __init__(self, line: set[str], resource: set[str]) -> None:
        self.line = labels.by_name(line)
        self.resource = labels.by_name(resource)


class Scope:
    """Changes from stage to stage.

    Args:
        names: the attributes there are.
        bound: where values of parameters go.
    """

    def __init__(self, names: Names, bound: Bound) -> None:
        self.line = labels.LINE
        self._names = names
        self._bound = bound
        self._made: dict[str, str] = {}
        self._parsers: list[tuple[Json | Logfmt, str]] = []
        self._hidden: dict[str, int] = {}
        self._kept: tuple[frozenset[str], int] | None = None

    def parse(self, stage: Json | Logfmt) -> None:
        """From here on the line's own properties are labels too."""
        if isinstance(stage, Json) and stage.paths:
            for name, path in stage.paths:
                self.make(name, self._at_path(path))
        elif isinstance(stage, Logfmt) and stage.keys:
            for name, key in stage.keys:
                self.make(name, f"coalesce({self._in_logfmt(self.line, key)}, '')")
        else:
            self._parsers.append((stage, self.line))

    def make(self, name: str, sql: str) -> None:
        """From here on a label is this."""
        self._made[name] = _sized(sql)

    def drop(self, names: tuple[str, ...], *, keep: bool) -> None:
        """From here on these labels are gone, or all but these."""
        if keep:
            self._made = {name: sql for name, sql in self._made.items() if name in names}
            self._kept = frozenset(names), len(self._parsers)
            return
        for name in names:
            self._made.pop(name, None)
            self._hidden[name] = len(self._parsers)

    def template(self, template: Template) -> str:
        """SQL of a text with labels in it."""
        parts = [
            (self.line if name == "__line__" else self.label(name)) if is_label else self._bound(name)
            for is_label, name in template.parts
        ]
        return _sized("concat(" + ", ".join(["''", *parts]) + ")")

    def label(self, name: str) -> str:
        """SQL of a label; empty text where a line has none."""
        if name in self._made:
            return self._made[name]
        if name == "__error__":
            return self._error()
        first = self._hidden.get(name, -1)
        if self._kept is not None and name not in self._kept[0]:
            first = max(first, self._kept[1])
        stored = self._stored(name) if first < 0 else None
        parsers = self._parsers[max(first, 0) :]
        wanted = name
        if stored is None and parsers and name.endswith(_EXTRACTED):
            wanted = name.removesuffix(_EXTRACTED)
        found = [self._property(stage, line, wanted) for stage, line in parsers]
        if stored is None:
            return _sized(f"coalesce({', '.join([*found, chr(39) * 2])})")
        if not found:
            return stored
        return _sized(f"CASE WHEN {stored} <> '' THEN {stored} ELSE coalesce({', '.join(found)}, '') END")

    def stored(self, name: str) -> str:
        """SQL of a label as it is stored, whatever the pipeline does; for selectors."""
        return self._stored(name) or "''"

    def _stored(self, name: str) -> str | None:
        sql = labels.COLUMNS.get(name) or labels.METADATA.get(name)
        if sql is not None:
            return f"coalesce({sql}, '')"
        places = [f"l.attributes[{self._bound(key)}]" for key in self._names.line.get(name, ())]
        places += [f"r.attributes[{self._bound(key)}]" for key in self._names.resource.get(name, ())]
        return f"coalesce({', '.join([*places, chr(39) * 2])})" if places else None

    def _property(self, stage: Json | Logfmt, line: str, name: str) -> str:
        if isinstance(stage, Logfmt):
            return self._in_logfmt(line, name)
        paths = [self._bound(path) for path in json_paths(name)]
        # What is no object has no such property; a property that is an object or a list is no label.
        found = [_scalar(line, path) for path in paths]
        return _sized(f"CASE WHEN json_valid({line}) THEN coalesce({', '.join([*found, 'NULL'])}) END")

    def _at_path(self, path: tuple[str | int, ...]) -> str:
        place = self._bound(
            "$" + "".join(f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in path)
        )
        return (
            f"CASE WHEN json_valid({self.line}) THEN coalesce(json_extract_string({self.line}, {place}), '') "
            "ELSE '' END"
        )

    def _in_logfmt(self, line: str, key: str) -> str:
        # Every character that is no part of a label's name became an underscore.
        name = "".join(r"[^A-Za-z0-9\s=\"]" if c == "_" or not c.isalnum() else c for c in key)
        pattern = self._bound(_LOGFMT_PAIRS + name + _LOGFMT_VALUE)
        quoted, plain = (f"regexp_extract({line}, {pattern}, {group})" for group in (1, 2))
        unescaped = f"replace(replace({quoted}, '\\\"', '\"'), '\\\\', '\\')"
        value = f"nullif(CASE WHEN {quoted} <> '' THEN {unescaped} ELSE {plain} END, '')"
        # Most lines lack the key, and are told by its last letters faster than by the expression.
        ending = self._bound(_LAST_WORD.sub(r"\1=", key))
        return _sized(f"CASE WHEN contains({line}, {ending}) THEN {value} END")

    def _error(self) -> str:
        broken = [line for stage, line in self._parsers if isinstance(stage, Json)]
        if not broken or "__error__" in self._hidden:
            return "''"
        return f"CASE WHEN {' AND '.join(OBJECT.format(line) for line in broken)} THEN '' ELSE 'JSONParserErr' END"


def json_paths(name: str) -> list[str]:
    """Where a property may lie that Loki would call so: ``a_b`` is "a_b", or "b" in the object "a", or "a-b"."""
    parts = name.split("_")
    found: list[str] = []
    free = min(len(parts) - 1, _NESTED)
    for joints in product(("_", '"."'), repeat=free):
        tail = ["_"] * (len(parts) - 1 - free)
        path = parts[0]
        for joint, part in zip((*joints, *tail), parts[1:], strict=True):
            path += joint + part
        if '""' not in f'"{path}"':  # DuckDB knows no property with an empty name
            found.append(f'$."{path}"')
    if len(parts) > 1:
        found += [f'$."{joint.join(parts)}"' for joint in (".", "-")]
    return found


def _scalar(line: str, path: str) -> str:
    value = f"json_extract_string({line}, {path})"
    nested = f"json_type({line}, {path}) IN ('OBJECT', 'ARRAY')"
    plain = f"left({value}, 1) NOT IN ('{_BRACE}', '[')"
    return f"CASE WHEN {plain} THEN {value} WHEN {nested} THEN NULL ELSE {value} END"


def _sized(sql: str) -> str:
    if len(sql) > _SQL_LIMIT:
        raise InputError("the query is too large: its labels and templates are built on each other too often")
    return sql
