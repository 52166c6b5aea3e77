"""The tree of a query, as the evaluator walks it. Times and durations are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Boundary = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class Matcher:
    """``name op value`` with op one of ``= != =~ !~``."""

    name: str
    op: str
    value: str


@dataclass(frozen=True, slots=True)
class Moment:
    """When a selector or subquery is evaluated: at a fixed time or a boundary of the query, less an offset."""

    at: int | Boundary | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Number:
    """A scalar."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """The newest sample of each series."""

    matchers: tuple[Matcher, ...]
    moment: Moment


@dataclass(frozen=True, slots=True)
class Range:
    """The samples of each series in a window."""

    selector: Selector
    window: int


@dataclass(frozen=True, slots=True)
class Subquery:
    """The values of an expression at the multiples of `step` in a window; step 0 is the default resolution."""

    inner: Node
    window: int
    step: int
    moment: Moment


@dataclass(frozen=True, slots=True)
class Negate:
    """``-x``."""

    inner: Node


@dataclass(frozen=True, slots=True)
class Matching:
    """Which series of two vectors belong together.

    Attributes:
        on: whether `labels` are those that count, not those that don't.
        many: ``left``, ``right``, or empty for one to one.
        include: labels that the many take over from the one.
        fill: values in place of a missing left and right side.
    """

    on: bool = False
    labels: tuple[str, ...] = ()
    many: str = ""
    include: tuple[str, ...] = ()
    fill: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Binary:
    """``left op right``; op in lower case."""

    op: str
    left: Node
    right: Node
    yields_bool: bool
    matching: Matching


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``op by (labels) (inner)``; without labels instead if `without`."""

    op: str
    inner: Node
    parameter: Node | None
    labels: tuple[str, ...]
    without: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function."""

    name: str
    arguments: tuple[Node, ...]


Node = Number | Text | Selector | Range | Subquery | Negate | Binary | Aggregate | Call

SCALAR_CALLS = frozenset({"time", "pi", "scalar", "start", "end", "step", "range"})
"""Functions whose answer is a scalar."""


def children(node: Node) -> tuple[Node, ...]:
    """The expressions right below."""
    match node:
        case Range(selector=inner) | Subquery(inner=inner) | Negate(inner=inner):
            return (inner,)
        case Binary(left=left, right=right):
            return (left, right)
        case Aggregate(inner=inner, parameter=parameter):
            return (inner,) if parameter is None else (parameter, inner)
        case Call(arguments=arguments):
            return arguments
    return ()


def kind(node: Node) -> str:
    """``scalar``, ``string``, ``matrix`` or ``vector``."""
    match node:
        case Number():
            return "scalar"
        case Text():
            return "string"
        case Range() | Subquery():
            return "matrix"
        case Negate(inner=inner):
            return kind(inner)
        case Binary(left=left, right=right):
            return "scalar" if kind(left) == kind(right) == "scalar" else "vector"
        case Call(name=name):
            return "scalar" if name in SCALAR_CALLS else "vector"
    return "vector"
