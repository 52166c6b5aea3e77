"""Functions of an instant vector's values and of time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from misstep.store.promql.labels import I64
from misstep.store.promql.matrix import F64, Vector

SIMPLE: dict[str, Callable[[F64], F64]] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "floor": np.floor,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "ln": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "deg": lambda x: x * 180 / np.pi,
    "rad": lambda x: x * np.pi / 180,
    "sgn": lambda x: np.where(x > 0, 1.0, np.where(x < 0, -1.0, x)),
}
"""One value in, one out; the name goes."""

_DAY = 86_400
_FAR = 250_000_000_000.0
"""Seconds beyond which calendars are not asked: some 8,000 years."""


def _whole(seconds: F64) -> I64:
    return np.trunc(np.clip(np.nan_to_num(seconds), -_FAR, _FAR)).astype(np.int64)


def _dates(seconds: F64, unit: str) -> I64:
    return _whole(seconds).astype("M8[s]").astype(f"M8[{unit}]").astype(np.int64)


def _day_of_month(seconds: F64) -> F64:
    days = _whole(seconds).astype("M8[s]").astype("M8[D]")
    found: F64 = (days - days.astype("M8[M]").astype("M8[D]")).astype(np.float64) + 1
    return found


def _day_of_year(seconds: F64) -> F64:
    days = _whole(seconds).astype("M8[s]").astype("M8[D]")
    found: F64 = (days - days.astype("M8[Y]").astype("M8[D]")).astype(np.float64) + 1
    return found


def _days_in_month(seconds: F64) -> F64:
    months = _whole(seconds).astype("M8[s]").astype("M8[M]")
    found: F64 = ((months + 1).astype("M8[D]") - months.astype("M8[D]")).astype(np.float64)
    return found


CALENDAR: dict[str, Callable[[F64], F64]] = {
    "minute": lambda s: (_whole(s) // 60 % 60).astype(np.float64),
    "hour": lambda s: (_whole(s) // 3600 % 24).astype(np.float64),
    "day_of_week": lambda s: ((_whole(s) // _DAY + 4) % 7).astype(np.float64),
    "day_of_month": _day_of_month,
    "day_of_year": _day_of_year,
    "days_in_month": _days_in_month,
    "month": lambda s: (_dates(s, "M") % 12 + 1).astype(np.float64),
    "year": lambda s: (_dates(s, "Y") + 1970).astype(np.float64),
}
"""Parts of a time in seconds, UTC; without an argument of the evaluation's."""


def clamped(vector: Vector, low: F64 | None, high: F64 | None) -> Vector:
    """``clamp``, ``clamp_min`` and ``clamp_max``; nothing where the lower bound is above the upper."""
    values = vector.values
    if high is not None:
        values = np.minimum(values, high)
    if low is not None:
        values = np.maximum(values, low)
    found = vector.with_values(values)
    if low is not None and high is not None and (low > high).any():
        found = Vector(found.labels, values, found.present & ~(low > high), found.nameless).compact()
    return found


def rounded(vector: Vector, nearest: F64) -> Vector:
    """``round``: half goes up."""
    inverse = 1.0 / nearest
    return vector.with_values(np.floor(vector.values * inverse + 0.5) / inverse)


def as_scalar(vector: Vector) -> F64:
    """``scalar``: the only value of a step, NaN unless there is exactly one."""
    number = np.count_nonzero(vector.present, axis=0)
    total = np.where(vector.present, vector.values, 0.0).sum(axis=0)
    return np.where(number == 1, total, np.nan)


def sorted_by_value(vector: Vector, *, descending: bool) -> Vector:
    """``sort`` and ``sort_desc``; NaN comes last. Only an instant answer has an order."""
    if vector.steps != 1:
        return vector
    vector = vector.compact()
    values = vector.values[:, 0]
    return vector.take(np.lexsort((-values if descending else values, np.isnan(values))))
