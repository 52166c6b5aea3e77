"""Which series of two vectors belong together."""

from __future__ import annotations

import numpy as np

from misstep.store.promql.errors import failed
from misstep.store.promql.labels import I64, NAME, Labels, joined
from misstep.store.promql.matrix import Vector, stacked
from misstep.store.promql.syntax import Matching


def signatures(left: Labels, right: Labels, matching: Matching) -> tuple[I64, I64, int]:
    """The signature of each series of both sides as a number, and how many there are."""
    if matching.on:
        a, b = left.keep(matching.labels), right.keep(matching.labels)
    else:
        ignored = (*matching.labels, NAME)
        a, b = left.drop(ignored), right.drop(ignored)
    of, first = joined([a, b]).group()
    return of[: a.size], of[a.size :], len(first)


class Pairs:
    """Every pair of a series of the many side and one of the one side that have the same signature.

    Attributes:
        many: index into the many side, shape (pairs,).
        one: index into the other.
        group: the signature of each pair.
        groups: how many signatures there are.
    """

    def __init__(self, many: Vector, one: Vector, matching: Matching, *, one_is_left: bool) -> None:
        of_many, of_one, self.groups = signatures(many.labels, one.labels, matching)
        self._check(of_one, one, many, matching, "left" if one_is_left else "right")
        order = np.argsort(of_one, kind="stable")
        sizes = np.bincount(of_one, minlength=self.groups)
        begins = np.cumsum(sizes) - sizes
        each = sizes[of_many]
        self.many: I64 = np.repeat(np.arange(len(of_many)), each)
        offset = np.arange(len(self.many)) - np.repeat(np.cumsum(each) - each, each)
        self.one: I64 = order[begins[of_many[self.many]] + offset]
        self.group: I64 = of_many[self.many]

    def _check(self, of: I64, one: Vector, many: Vector, matching: Matching, side: str) -> None:
        """A signature is there once at most on the one side, at each step at which anything is to be matched."""
        members = np.bincount(of, minlength=self.groups)
        if (members < 2).all():
            return
        asked = many.present.any(axis=0)
        for group in np.flatnonzero(members > 1).tolist():
            rows = np.flatnonzero(of == group)
            crowded = np.flatnonzero((np.count_nonzero(one.present[rows], axis=0) > 1) & asked)
            if not len(crowded):
                continue
            guilty = rows[one.present[rows, crowded[0]]][:2]
            names = sorted(_shown(row) for row in one.labels.take(guilty).rows())
            kept = one.labels.take(guilty[:1])
            kept = kept.keep(matching.labels) if matching.on else kept.drop((*matching.labels, NAME))
            raise failed(
                f"found duplicate series for the match group {_shown(next(kept.rows()))} on the {side} hand-side of "
                f"the operation: [{', '.join(names)}];many-to-many matching not allowed: matching labels must be "
                "unique on one side"
            )


def both_sides(matching: Matching, left: Vector, right: Vector) -> tuple[Vector, Vector]:
    """Both vectors, each with a series of the fill value for what the other has and it has not (``fill``)."""
    of_left, of_right, number = signatures(left.labels, right.labels, matching)
    fill_left, fill_right = matching.fill
    more_left = _missing(matching, right, of_right, left, of_left, number, fill_left)
    more_right = _missing(matching, left, of_left, right, of_right, number, fill_right)
    return stacked([left, more_left]), stacked([right, more_right])


def _missing(
    matching: Matching,
    known: Vector,
    of_known: I64,
    lacking: Vector,
    of_lacking: I64,
    number: int,
    fill: float | None,
) -> Vector:
    if fill is None or not len(known):
        return Vector.empty(known.steps)
    there = np.zeros((number, known.steps), np.bool_)
    np.logical_or.at(there, of_lacking, lacking.present)
    wanted = np.zeros((number, known.steps), np.bool_)
    np.logical_or.at(wanted, of_known, known.present)
    _, first = np.unique(of_known, return_index=True)
    present = (wanted & ~there)[of_known[first]]
    labels = known.labels.take(first)
    labels = labels.keep(matching.labels) if matching.on else labels.drop((*matching.labels, NAME))
    return Vector(labels, np.full(present.shape, fill), present)


def _shown(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
