"""Operators between scalars and vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from misstep.store.promql.labels import I64, NAME, Bool, Column, Labels
from misstep.store.promql.matching import Pairs, both_sides, signatures
from misstep.store.promql.matrix import F64, Vector, check_single, merged, stacked
from misstep.store.promql.syntax import Binary

COMPARISONS: dict[str, Callable[[F64, F64], Bool]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
SETS = frozenset({"and", "or", "unless"})

_GROUPING = "multiple matches for labels: grouping labels must ensure unique matches"
_MANY = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"


def _power(a: F64, b: F64) -> F64:
    return np.power(a, b)


def _modulo(a: F64, b: F64) -> F64:
    return np.fmod(a, b)


ARITHMETIC: dict[str, Callable[[F64, F64], F64]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": _modulo,
    "^": _power,
    "atan2": np.arctan2,
}


def scalars(op: str, left: F64, right: F64) -> F64:
    """Two scalars; a comparison gives 0 or 1."""
    if op in COMPARISONS:
        return COMPARISONS[op](left, right).astype(np.float64)
    return ARITHMETIC[op](left, right)


def with_scalar(node: Binary, vector: Vector, scalar: F64, *, swapped: bool) -> Vector:
    """A vector and a scalar, the scalar on the left if `swapped`; a comparison keeps the vector's values."""
    values = vector.values
    left, right = (scalar, values) if swapped else (values, scalar)
    if node.op not in COMPARISONS:
        return vector.with_values(ARITHMETIC[node.op](left, right))
    held = COMPARISONS[node.op](left, right)
    if node.yields_bool:
        return vector.with_values(held.astype(np.float64))
    return Vector(vector.labels, values, vector.present & held, vector.nameless).compact()


def sets(node: Binary, left: Vector, right: Vector) -> Vector:
    """``and``, ``or`` and ``unless``."""
    of_left, of_right, number = signatures(left.labels, right.labels, node.matching)
    if node.op == "or":
        known = _anywhere(of_left, number, left.present)
        rest = Vector(right.labels, right.values, right.present & ~known[of_right], right.nameless)
        return merged(stacked([left, rest]).compact())
    known = _anywhere(of_right, number, right.present)[of_left]
    kept = left.present & (known if node.op == "and" else ~known)
    return Vector(left.labels, left.values, kept, left.nameless).compact()


def vectors(node: Binary, left: Vector, right: Vector) -> Vector:
    """Arithmetic and comparison of two vectors.

    Raises:
        QueryError: it cannot be told which series belong together.
    """
    left, right = left.compact(), right.compact()
    steps = left.steps
    matching = node.matching
    if any(value is not None for value in matching.fill):
        left, right = both_sides(node.matching, left, right)
    if not len(left) or not len(right):
        return Vector.empty(steps)
    swapped = matching.many == "right"
    many, one = (right, left) if swapped else (left, right)
    pairs = Pairs(many, one, matching, one_is_left=swapped)
    a, b = many.values[pairs.many], one.values[pairs.one]
    both = many.present[pairs.many] & one.present[pairs.one]
    if not matching.many:
        check_single(pairs.group, pairs.groups, both, _MANY)
    x, y = (b, a) if swapped else (a, b)
    nameless: Bool | bool = False
    if node.op in COMPARISONS:
        held = COMPARISONS[node.op](x, y)
        if node.yields_bool:
            values, present = held.astype(np.float64), both
            nameless = True
        else:
            # A filter keeps what stands on the left, whichever side is the many.
            values, present = x, both & held
            nameless = many.nameless[pairs.many]
    else:
        values, present = ARITHMETIC[node.op](x, y), both
    labels = _result_labels(node, many.labels.take(pairs.many), one.labels.take(pairs.one))
    found = Vector(labels, values, present, nameless)
    return merged(found, _GROUPING if matching.many else _MANY, both).compact()


def _result_labels(node: Binary, many: Labels, one: Labels) -> Labels:
    matching = node.matching
    if node.op not in COMPARISONS:
        many = many.drop((NAME,))
    if not matching.many:
        many = many.keep(matching.labels) if matching.on else many.drop(matching.labels)
    for name in matching.include:
        many = many.put(name, Column(*one.column(name)))
    return many


def _anywhere(of: I64, number: int, present: Bool) -> Bool:
    """Whether any member of each signature is there, shape (number, S)."""
    found = np.zeros((number, present.shape[1]), np.bool_)
    if len(np.unique(of)) == len(of):
        found[of] = present
    else:
        np.logical_or.at(found, of, present)
    return found
