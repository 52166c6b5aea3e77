"""The labels of the lines that are returned: what `scope` says in SQL, said in Python for at most `limit` lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from misstep.store.logql import labels
from misstep.store.logql.expression import (
    Drop,
    Json,
    LabelFormat,
    LineFormat,
    Logfmt,
    LogQuery,
    Regexp,
    Template,
)

_PAIR = re.compile(r'\s*([^\s="]+)(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s"]*)))?(?=\s|$)', re.DOTALL)
_PARSED_LIMIT = 500
"""Labels that one line may give."""


class Entry(NamedTuple):
    """One line as it is answered.

    Attributes:
        ts: Unix nanoseconds.
        line: its text, as the pipeline left it.
        stream: labels of its stream.
        metadata: structured metadata.
        parsed: labels that the pipeline made.
    """

    ts: int
    line: str
    stream: dict[str, str]
    metadata: dict[str, str]
    parsed: dict[str, str]


def entry(
    query: LogQuery,
    ts: int,
    line: str,
    columns: Mapping[str, str],
    attributes: Mapping[str, str],
    resource: Mapping[str, str],
    extracted: Sequence[str],
) -> Entry:
    """A stored line after the pipeline.

    Args:
        query: what was asked.
        ts: Unix nanoseconds.
        line: its text.
        columns: labels that are columns, of stream and metadata.
        attributes: its own, by key.
        resource: of its sender, by key.
        extracted: what regular expressions found, in the order in which `Compiled` lists them.
    """
    stored = {**labels.of_attributes(resource), **labels.of_attributes(attributes)}
    stored.update((name, value) for name, value in columns.items() if value)
    found = _Labels(stored, {}, line)
    remaining = iter(extracted)
    for stage in query.stages:
        match stage:
            case Json(paths):
                found.add(_json_paths(found.line, paths) if paths else _json(found.line), forced=bool(paths))
            case Logfmt(keys):
                pairs = _logfmt(found.line)
                chosen = (
                    {name: pairs.get(labels.label_name(key), "") for name, key in keys} if keys else pairs
                )
                found.add(chosen, forced=bool(keys))
            case Regexp(_, groups):
                found.add({name: next(remaining) for name in groups if name}, forced=True)
            case LineFormat(template):
                found.line = found.text(template)
            case LabelFormat(assignments):
                found.add({name: found.text(template) for name, template in assignments}, forced=True)
            case Drop(names, keep):
                found.drop(names, keep)
            case _:
                pass
    stream = {name: value for name, value in found.stored.items() if name in labels.STREAM}
    metadata = {name: value for name, value in found.stored.items() if name not in labels.STREAM}
    return Entry(ts, found.line, stream, metadata, {k: v for k, v in found.parsed.items() if v})


class _Labels:
    """The labels of one line on its way through the stages."""

    def __init__(self, stored: dict[str, str], parsed: dict[str, str], line: str) -> None:
        self.stored, self.parsed, self.line = stored, parsed, line

    def add(self, found: Mapping[str, str], *, forced: bool) -> None:
        """Labels that a stage makes; what is parsed gives way to what is stored, what is asked for by name does not."""
        for name, value in found.items():
            if forced:
                self.stored.pop(name, None)
                self.parsed[name] = value
            elif name in self.stored:
                self.parsed.setdefault(f"{name}_extracted", value)
            else:
                self.parsed.setdefault(name, value)

    def text(self, template: Template) -> str:
        return "".join(self._part(is_label, text) for is_label, text in template.parts)

    def drop(self, names: tuple[str, ...], keep: bool) -> None:
        self.stored = {k: v for k, v in self.stored.items() if (k in names) == keep}
        self.parsed = {k: v for k, v in self.parsed.items() if (k in names) == keep}

    def _part(self, is_label: bool, text: str) -> str:
        if not is_label:
            return text
        if text == "__line__":
            return self.line
        if text == "detected_level" and text not in self.stored:
            return self.stored.get("level", "")
        return self.parsed.get(text) or self.stored.get(text, "")


def _json(line: str) -> dict[str, str]:
    try:
        # Numbers stay as they are written.
        whole = json.loads(line, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        return {"__error__": "JSONParserErr"}
    found: dict[str, str] = {}
    for name, value in _flat(whole):
        if len(found) >= _PARSED_LIMIT:
            break
        found.setdefault(name, value)
    return found


def _flat(whole: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Properties by name, objects within objects joined by underscores; lists are left out, as Loki does."""
    waiting: list[tuple[str, object]] = [("", whole)]
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{prefix}_{key}" if prefix else str(key), v) for key, v in reversed(value.items())]
        elif isinstance(value, str):
            yield labels.label_name(prefix), value
        elif isinstance(value, bool):
            yield labels.label_name(prefix), "true" if value else "false"


def _json_paths(line: str, paths: tuple[tuple[str, tuple[str | int, ...]], ...]) -> dict[str, str]:
    try:
        whole = json.loads(line, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return {"__error__": "JSONParserErr"}
    found = {}
    for name, path in paths:
        value: object = whole
        for step in path:
            if isinstance(step, int):
                value = value[step] if isinstance(value, list) and step < len(value) else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
        if value is None:
            found[name] = ""
        elif isinstance(value, _Number):
            found[name] = value.text
        else:
            found[name] = value if isinstance(value, str) else _compact(value)
    return found


class _Number(float):
    """A number as it is written."""

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def _compact(value: object) -> str:
    """As DuckDB writes JSON."""
    if isinstance(value, dict):
        inner = ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_compact(v)}" for k, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_compact, value)) + "]"
    return value.text if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _logfmt(line: str) -> dict[str, str]:
    found: dict[str, str] = {}
    place = 0
    while len(found) < _PARSED_LIMIT and (match := _PAIR.match(line, place)):
        key, quoted, plain = match.groups()
        value = quoted.replace('\\"', '"').replace("\\\\", "\\") if quoted else plain or ""
        if value:
            found.setdefault(labels.label_name(key), value)
        place = match.end()
    return found
