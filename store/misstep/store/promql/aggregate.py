"""``sum by (…)`` and its kin: many rows into one for each group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql import sums
from misstep.store.promql.errors import failed
from misstep.store.promql.labels import I64, NAME, Bool, Column, Labels, encode
from misstep.store.promql.matrix import F64, Vector, merged
from misstep.store.promql.numbers import shown
from misstep.store.promql.order import limited, picked
from misstep.store.promql.syntax import Aggregate

CHOOSING = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Those whose answer is some of the rows that they were given."""

_MOST = 1 << 63
_AT_ONCE = 1 << 15
"""Cells of a matrix that are reduced together: what is made of them stays in the cache."""
Rows = slice | NDArray[np.intp]


class Batch(NamedTuple):
    """Groups of the same size.

    Attributes:
        groups: which, in order.
        rows: their rows, shape (size, groups); or where they lie, group by group.
        size: rows of each.
    """

    groups: slice | I64
    rows: Rows
    size: int

    def part(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Their rows of a matrix, shape (size, groups, S)."""
        found = part(matrix, self.rows)
        if isinstance(self.rows, slice):
            return np.swapaxes(found.reshape(-1, self.size, matrix.shape[1]), 0, 1)
        return found


class Grouping:
    """Rows of a vector by group.

    Attributes:
        vector: the rows.
        of: the group of each row.
        sizes: how many rows each group has.
        labels: of the groups.
        nameless: whether any of a group's rows loses its name.
    """

    def __init__(self, vector: Vector, by: tuple[str, ...], without: bool) -> None:
        kept = vector.labels.drop((*by, NAME)) if without else vector.labels.keep(by)
        self.vector = vector
        self.of, first = kept.group()
        self.sizes = np.bincount(self.of, minlength=len(first))
        together = bool((self.of[1:] >= self.of[:-1]).all())
        self._order = None if together else np.argsort(self.of, kind="stable")
        self.labels = kept.take(first)
        self.nameless: Bool = np.bincount(self.of, vector.nameless, len(first)) > 0

    def members(self) -> Iterator[Rows]:
        """The rows of each group."""
        end = 0
        for size in self.sizes.tolist():
            begin, end = end, end + size
            yield slice(begin, end) if self._order is None else self._order[begin:end]

    def each(self, matrix: NDArray[Any], make: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """One row of values a group; `make` reduces axis 0 of parts of a matrix, shape (members, groups, S)."""
        made = [(batch.groups, make(batch.part(matrix))) for batch in self._batches()]
        if len(made) == 1:
            return made[0][1]
        found = np.zeros((len(self.sizes), matrix.shape[1]), made[0][1].dtype if made else np.float64)
        for groups, values in made:
            found[groups] = values
        return found

    def counts(self) -> I64:
        """How many rows are there in each group, shape (groups, S)."""
        present = self.vector.present
        if present.all():
            return np.repeat(self.sizes[:, None], present.shape[1], axis=1)
        return self.each(present, lambda rows: np.count_nonzero(rows, axis=0))

    def _batches(self) -> Iterator[Batch]:
        begins = np.cumsum(self.sizes) - self.sizes
        for size in np.unique(self.sizes).tolist():
            alike = np.flatnonzero(self.sizes == size)
            most = max(_AT_ONCE // (size * max(self.vector.steps, 1)), 1)
            for at in range(0, len(alike), most):
                groups = alike[at : at + most]
                first, last = int(groups[0]), int(groups[-1])
                if self._order is None and last - first == len(groups) - 1:
                    rows: Rows = slice(int(begins[first]), int(begins[last]) + size)
                    yield Batch(slice(first, last + 1), rows, size)
                    continue
                index = begins[groups] + np.arange(size)[:, None]
                yield Batch(groups, index if self._order is None else self._order[index], size)


def part(matrix: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Some rows of a matrix, laid out in memory as it is: where steps come first, they stay first."""
    if isinstance(rows, slice):
        return matrix[rows]
    if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
        return np.moveaxis(np.take(matrix.T, rows, axis=1, mode="clip"), 0, -1)
    return np.take(matrix, rows, axis=0, mode="clip")


def aggregate(node: Aggregate, vector: Vector, parameter: F64 | str | None) -> Vector:
    """Carry out an aggregation.

    Args:
        node: which one.
        vector: its input.
        parameter: one value a step, or the label of ``count_values``.

    Raises:
        QueryError: the parameter is out of range.
    """
    op = node.op
    if isinstance(parameter, str):
        return count_values(node, vector, parameter)
    if op in CHOOSING:
        assert parameter is not None
        _check_choice(op, parameter)
    vector = vector.compact()
    if not len(vector):
        return Vector.empty(vector.steps)
    groups = Grouping(vector, node.labels, node.without)
    if op in CHOOSING:
        assert parameter is not None
        return _choose(op, groups, parameter)
    counts = groups.counts()
    with np.errstate(all="ignore"):
        if op == "quantile":
            assert parameter is not None
            values = _quantile(groups, counts, parameter)
        else:
            values = _FUNCTIONS[op](groups, counts)
    return Vector(groups.labels, values, counts > 0, groups.nameless)


def count_values(node: Aggregate, vector: Vector, label: str) -> Vector:
    """``count_values``: how many rows of a group have each value, which becomes a label.

    Raises:
        QueryError: that is no name for a label.
    """
    check_label(label, "invalid label name")
    row, step = np.nonzero(vector.present)
    if not len(row):
        return Vector.empty(vector.steps)
    values = vector.values[row, step]
    # Bits, not numbers, are compared: NaN is one value, and so that 0 and -0 stay two, as they are written.
    bits, code = np.unique(np.where(np.isnan(values), np.nan, values).view(np.int64), return_inverse=True)
    texts = [shown(value) for value in bits.view(np.float64).tolist()]
    kept = vector.labels.drop((*node.labels, NAME)) if node.without else vector.labels.keep(node.labels)
    of, first = kept.drop((label,)).group()
    pairs, place = np.unique(of[row] * len(texts) + code, return_inverse=True)
    named = encode(texts)
    labels = kept.drop((label,)).take(first[pairs // len(texts)])
    labels = labels.put(label, Column(named.codes[pairs % len(texts)], named.values))
    counts = np.bincount(place * vector.steps + step, minlength=len(pairs) * vector.steps)
    found = counts.reshape(len(pairs), vector.steps)
    return merged(Vector(labels, found.astype(np.float64), found > 0))


def check_label(name: str, complaint: str) -> None:
    """A label's name is any UTF-8 text but the empty one.

    Raises:
        QueryError: it is not.
    """
    if name and not any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        return
    text = "".join(f"\\x{ord(c) & 0xFF:02x}" if 0xD800 <= ord(c) <= 0xDFFF else c for c in name)
    raise failed(f'{complaint} "{text}"' if complaint.endswith("name") else f"{complaint}: {text}")


def _sum(groups: Grouping, counts: I64) -> F64:
    return groups.each(groups.vector.filled(0.0), sums.down)


def _average(groups: Grouping, counts: I64) -> F64:
    number = np.maximum(counts, 1)
    found = _sum(groups, counts) / number
    burst = np.isinf(found)
    if burst.any():
        # A sum may pass the largest float where the mean does not.
        small = groups.vector.filled(0.0) / number[groups.of]
        found = np.where(burst, groups.each(small, sums.down), found)
    return found


def _count(groups: Grouping, counts: I64) -> F64:
    return counts.astype(np.float64)


def _group(groups: Grouping, counts: I64) -> F64:
    return np.ones(counts.shape)


def _minimum(groups: Grouping, counts: I64) -> F64:
    return groups.each(groups.vector.filled(np.nan), lambda rows: np.fmin.reduce(rows, axis=0))


def _maximum(groups: Grouping, counts: I64) -> F64:
    return groups.each(groups.vector.filled(np.nan), lambda rows: np.fmax.reduce(rows, axis=0))


def _variance(groups: Grouping, counts: I64) -> F64:
    vector = groups.vector
    number = np.maximum(counts, 1)
    spoiled = vector.present & ~np.isfinite(vector.values)
    clean = np.where(vector.present & ~spoiled, vector.values, np.nan)
    # Counted from one of the values, equal values have a variance of exactly zero.
    origin = np.nan_to_num(groups.each(clean, lambda rows: np.fmin.reduce(rows, axis=0)))
    shifted = np.nan_to_num(clean - origin[groups.of])
    mean = groups.each(shifted, sums.down) / number
    squares = np.where(vector.present, (shifted - mean[groups.of]) ** 2, 0.0)
    found = groups.each(squares, sums.down) / number
    bad = groups.each(spoiled, lambda rows: np.any(rows, axis=0))
    return np.where(bad, np.nan, found)


def _deviation(groups: Grouping, counts: I64) -> F64:
    return np.sqrt(_variance(groups, counts))


_FUNCTIONS: dict[str, Callable[[Grouping, I64], F64]] = {
    "sum": _sum,
    "avg": _average,
    "count": _count,
    "group": _group,
    "min": _minimum,
    "max": _maximum,
    "stdvar": _variance,
    "stddev": _deviation,
}


def _quantile(groups: Grouping, counts: I64, q: F64) -> F64:
    vector = groups.vector
    whole = bool(vector.present.all()) and not bool(np.isnan(vector.values).any())
    if whole and bool((q == q[0]).all()) and 0 <= q[0] <= 1:
        plain = [_plain_quantile(part(vector.values, rows), float(q[0])) for rows in groups.members()]
        return np.stack(plain)
    made = [
        _careful_quantile(part(vector.values, rows).T, part(vector.present, rows).T, number, q)
        for rows, number in zip(groups.members(), np.maximum(counts, 1), strict=True)
    ]
    return np.stack(made)


def _plain_quantile(rows: F64, q: float) -> F64:
    columns = rows.T.copy()
    rank = q * (columns.shape[1] - 1)
    below = int(rank)
    above = min(below + 1, columns.shape[1] - 1)
    columns.partition((below, above), axis=1)
    weight = rank - below
    return np.asarray(columns[:, below] * (1 - weight) + columns[:, above] * weight)


def _careful_quantile(values: F64, present: Bool, number: I64, q: F64) -> F64:
    """Where some are not there, or NaN: shape (S, members) both."""
    bad = np.isnan(values) & present
    ordered = np.sort(np.where(bad, -np.inf, np.where(present, values, np.nan)), axis=1)
    return limited(picked(ordered, number, bad.sum(axis=1), q), q)


def _check_choice(op: str, parameter: F64) -> None:
    if op == "limit_ratio":
        if np.isnan(parameter).any():
            raise failed("Ratio value is NaN")
        return
    if np.isnan(parameter).any():
        raise failed("Parameter value is NaN")
    far = ~(np.abs(parameter) < _MOST)
    if far.any():
        raise failed(f"Scalar value {shown(float(parameter[far][0]))} overflows int64")


def _choose(op: str, groups: Grouping, parameter: F64) -> Vector:
    vector = groups.vector
    if op == "limit_ratio":
        kept = vector.present & _ratio(vector.labels, parameter)
    else:
        most = np.maximum(np.trunc(parameter), 0)
        kept = np.zeros(vector.present.shape, np.bool_)
        for rows in groups.members():
            here, values = part(vector.present, rows), part(vector.values, rows)
            kept[rows] = _first(here, most) if op == "limitk" else _top(values, here, most, op == "topk")
    if vector.steps == 1 and op in ("topk", "bottomk"):
        values = vector.values[:, 0]
        order = np.lexsort((-values if op == "topk" else values, np.isnan(values), groups.of))
        vector, kept = vector.take(order), kept[order]
    return Vector(vector.labels, vector.values, kept, vector.nameless).compact()


def _top(values: F64, present: Bool, most: F64, largest: bool) -> Bool:
    """Which rows are among the first at each step; NaN is the last to be chosen."""
    size = len(values)
    if (most >= size).all():
        return present
    # One sorted axis in memory; what is absent, and NaN, sorts to the end.
    columns = np.where(present, -values if largest else values, np.nan).T
    kept = np.zeros(columns.shape, np.bool_)
    one = int(most[0])
    if bool((most == one).all()) and not np.isnan(columns).any():
        if one:
            chosen = np.argpartition(columns, one - 1, axis=1)[:, :one]
            np.put_along_axis(kept, chosen, True, axis=1)
        return np.asarray(kept.T)
    absent = ~present.T
    ordered = np.lexsort((columns, absent), axis=1)
    inside = np.arange(size) < most[:, None]
    np.put_along_axis(kept, ordered, inside, axis=1)
    return np.asarray(kept.T) & present


def _first(present: Bool, most: F64) -> Bool:
    return present & (np.cumsum(present, axis=0) <= most)


def _ratio(labels: Labels, ratio: F64) -> Bool:
    """A row is chosen by a number in 0..1 that depends on its labels alone; a negative ratio takes the others."""
    place = np.array(
        [
            int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=8).digest(), "big") / 2**64
            for row in labels.rows()
        ]
    )[:, None]
    limited_ratio = np.clip(ratio, -1, 1)
    return np.where(limited_ratio >= 0, place < limited_ratio, place >= 1 + limited_ratio)
