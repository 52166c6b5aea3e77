"""An instant vector at every step: a matrix of values, which of them are there, and the labels of its rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql.errors import failed
from misstep.store.promql.labels import I64, NAME, Bool, Index, Labels, joined

F64 = NDArray[np.float64]

SAME = "vector cannot contain metrics with the same labelset"


class Vector:
    """n series at S steps.

    Attributes:
        labels: of the n series.
        values: shape (n, S); where nothing is there, anything may stand.
        present: shape (n, S); NaN is a value like any other, so it cannot say "nothing".
        nameless: shape (n,): series that lose their name when the query is done. The name stays readable until
            then, for ``label_replace`` and ``by (__name__)``.
    """

    def __init__(self, labels: Labels, values: F64, present: Bool, nameless: Bool | bool = False) -> None:
        self.labels = labels
        self.values = values
        self.present = present
        self.nameless: Bool = (
            np.full(labels.size, nameless, np.bool_) if isinstance(nameless, bool) else nameless
        )

    @classmethod
    def empty(cls, steps: int) -> Vector:
        """No series."""
        return cls(Labels.none(0), np.zeros((0, steps)), np.zeros((0, steps), np.bool_))

    @classmethod
    def of_scalar(cls, scalar: F64) -> Vector:
        """One series without labels."""
        return cls(Labels.none(1), scalar[None, :], np.ones((1, len(scalar)), np.bool_))

    def __len__(self) -> int:
        return self.labels.size

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return int(self.values.shape[1])

    def take(self, index: Index) -> Vector:
        """The series at an index or of a mask."""
        return Vector(self.labels.take(index), self.values[index], self.present[index], self.nameless[index])

    def compact(self) -> Vector:
        """Without the series that are nowhere."""
        somewhere: Bool = np.any(self.present, axis=1)
        return self if somewhere.all() else self.take(somewhere)

    def with_values(self, values: F64, *, nameless: bool = True) -> Vector:
        """The same series with other values."""
        return Vector(self.labels, values, self.present, True if nameless else self.nameless)

    def filled(self, value: float) -> F64:
        """The values, with one for what is not there."""
        return self.values if self.present.all() else np.where(self.present, self.values, value)

    def named(self) -> Vector:
        """As the query's answer: names removed where they go, series merged that became the same.

        Raises:
            QueryError: two series that became the same have a value at the same step.
        """
        labels = self.labels.drop((NAME,)) if self.nameless.all() else self.labels.blank(NAME, self.nameless)
        return merged(Vector(labels, self.values, self.present))


def merged(vector: Vector, error: str = SAME, claimed: Bool | None = None) -> Vector:
    """Series with the same labels become one.

    Args:
        vector: any.
        error: what is said if two of them are there at the same step.
        claimed: shape (n, S): where a series counts as there for that error; by default where it is.

    Raises:
        QueryError: two of them are there at the same step.
    """
    of, first = vector.labels.group()
    if len(first) == len(vector):
        return vector
    check_single(of, len(first), vector.present if claimed is None else claimed, error)
    steps = vector.steps
    values, present = np.zeros((len(first), steps)), np.zeros((len(first), steps), np.bool_)
    row, step = np.nonzero(vector.present)
    values[of[row], step] = vector.values[row, step]
    present[of[row], step] = True
    nameless = np.zeros(len(first), np.bool_)
    np.logical_or.at(nameless, of, vector.nameless)
    return Vector(vector.labels.take(first), values, present, nameless)


def check_single(of: I64, groups: int, present: Bool, error: str) -> None:
    """No step at which two members of a group are there.

    Raises:
        QueryError: there is one.
    """
    members = np.bincount(of, minlength=groups)
    crowded = members[of] > 1
    if not crowded.any():
        return
    row, step = np.nonzero(present[crowded])
    counts = np.bincount(of[crowded][row] * present.shape[1] + step) if len(row) else np.zeros(1)
    if counts.max() > 1:
        raise failed(error)


def stacked(vectors: Sequence[Vector]) -> Vector:
    """The series of several vectors, one after the other; labels may repeat."""
    return Vector(
        joined([v.labels for v in vectors]),
        np.concatenate([v.values for v in vectors]),
        np.concatenate([v.present for v in vectors]),
        np.concatenate([v.nameless for v in vectors]),
    )
