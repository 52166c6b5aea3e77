"""Floats as Go's ``strconv.FormatFloat(f, 'f', -1, 64)`` writes them, which is how Prometheus shows values."""

from __future__ import annotations

import math
from decimal import Decimal


def shown(value: float) -> str:
    """The shortest digits that read back as the same value, never with an exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if text.endswith(".0"):
        return text[:-2]
    return format(Decimal(text), "f") if "e" in text else text


def read(text: str) -> float:
    """A float as Go's ``ParseFloat`` reads it, NaN where it is none."""
    try:
        return float(text.replace("_", "x"))
    except ValueError:
        return math.nan
