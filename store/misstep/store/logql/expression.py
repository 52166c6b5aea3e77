"""What a LogQL query says, as a tree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matcher:
    """A condition on a stream label. `op` is ``=``, ``!=``, ``=~`` or ``!~``; regular expressions match the whole value."""

    name: str
    op: str
    value: str


@dataclass(frozen=True)
class LineFilter:
    """Lines with (``|=``, ``|~``) or without (``!=``, ``!~``) any of some texts or regular expressions."""

    op: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Json:
    """Properties of a JSON line become labels; with `paths` only these, as (label, path)."""

    paths: tuple[tuple[str, tuple[str | int, ...]], ...] = ()


@dataclass(frozen=True)
class Logfmt:
    """``key=value`` pairs of a line become labels; with `keys` only these, as (label, key)."""

    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Regexp:
    """Named groups of a regular expression become labels.

    Attributes:
        pattern: as RE2 takes it.
        groups: name of each group; empty for one without.
    """

    pattern: str
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Compare:
    """A condition on a label.

    Attributes:
        op: ``=``, ``!=``, ``=~``, ``!~`` for text, ``==``, ``!=``, ``>``, ``>=``, ``<``, ``<=`` for numbers.
        value: text, or a number: plain, seconds or bytes, as `unit` says.
        unit: ``text``, ``number``, ``duration`` or ``bytes``: how the label is read.
    """

    name: str
    op: str
    value: str | float
    unit: str


@dataclass(frozen=True)
class Both:
    """Two conditions of which both (``and``) or one (``or``) holds."""

    op: str
    left: Condition
    right: Condition


Condition = Compare | Both


@dataclass(frozen=True)
class LabelFilter:
    """Lines whose labels fulfil a condition."""

    condition: Condition


@dataclass(frozen=True)
class Template:
    """Text with labels in it.

    Attributes:
        parts: (is it a label, text or label name).
    """

    parts: tuple[tuple[bool, str], ...]


@dataclass(frozen=True)
class LineFormat:
    """The line becomes this."""

    template: Template


@dataclass(frozen=True)
class LabelFormat:
    """Labels become these."""

    assignments: tuple[tuple[str, Template], ...]


@dataclass(frozen=True)
class Drop:
    """These labels go, or all but these go."""

    names: tuple[str, ...]
    keep: bool = False


Stage = LineFilter | Json | Logfmt | Regexp | LabelFilter | LineFormat | LabelFormat | Drop


@dataclass(frozen=True)
class LogQuery:
    """A stream selector and its pipeline."""

    matchers: tuple[Matcher, ...]
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Grouping:
    """``by`` or ``without`` these labels."""

    names: tuple[str, ...]
    without: bool = False


@dataclass(frozen=True)
class Range:
    """A function over the lines of a moving window.

    Attributes:
        window: nanoseconds.
        offset: nanoseconds by which the window lies in the past.
        unwrap: label whose value is taken, and how it is read; empty for functions that count lines.
        grouping: labels that its series keep; None for all of the stream.
    """

    function: str
    query: LogQuery
    window: int
    offset: int = 0
    unwrap: tuple[str, str] = ("", "")
    grouping: Grouping | None = None


@dataclass(frozen=True)
class Aggregation:
    """Series become fewer; `parameter` is k of ``topk`` and ``bottomk``."""

    function: str
    inner: Metric
    grouping: Grouping
    parameter: float = 0.0


@dataclass(frozen=True)
class Binary:
    """Two sides, joined by equal labels; `keep` is ``bool`` after a comparison: 0 and 1 instead of a filter."""

    op: str
    left: Metric
    right: Metric
    as_bool: bool = False


@dataclass(frozen=True)
class Number:
    """A number, which ``vector()`` makes a series without labels."""

    value: float
    vector: bool = False


Metric = Range | Aggregation | Binary | Number
Expression = LogQuery | Metric


def names_in(query: LogQuery) -> set[str]:
    """Every name of a label in a selector and its pipeline."""
    found = {matcher.name for matcher in query.matchers}
    for stage in query.stages:
        match stage:
            case LabelFilter(condition):
                found |= _names_in(condition)
            case LineFormat(template):
                found |= _labels_of(template)
            case LabelFormat(assignments):
                found = found.union(*(_labels_of(template) for _, template in assignments))
            case _:
                pass
    return found


def _names_in(condition: Condition) -> set[str]:
    if isinstance(condition, Both):
        return _names_in(condition.left) | _names_in(condition.right)
    return {condition.name}


def _labels_of(template: Template) -> set[str]:
    return {name for is_label, name in template.parts if is_label and name != "__line__"}
