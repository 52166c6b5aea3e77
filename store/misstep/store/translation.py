"""OpenTelemetry names as Prometheus names, the way Prometheus' own OTLP receiver writes them.

Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ ("OTLP Metric points to
Prometheus"). Asked once per distinct metric, never per point.
"""

from __future__ import annotations

import functools
import re

GAUGE = "gauge"
COUNTER = "sum"
"""Kinds whose names get a suffix: ``_ratio`` for a gauge of unit 1, ``_total`` for what only grows."""

_UNITS = {
    "d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds",
    "ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes",
    "TiBy": "tibibytes", "KBy": "kilobytes", "MBy": "megabytes", "GBy": "gigabytes", "TBy": "terabytes",
    "m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams", "Cel": "celsius",
    "Hz": "hertz", "1": "", "%": "percent",
}  # fmt: skip
_PER = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_IN_UNITS = re.compile(r"[^a-zA-Z0-9]+")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_NOT_IN_LABELS = re.compile(r"[^a-zA-Z0-9]+")


@functools.lru_cache(maxsize=65_536)
def metric_name(name: str, unit: str, kind: str) -> str:
    """The Prometheus name.

    Args:
        name: OpenTelemetry's.
        unit: UCUM, as the metric has it.
        kind: `GAUGE`, `COUNTER` or anything else, which gets no suffix of its kind.

    Returns:
        A valid name; ``_`` where nothing of the original can be kept.
    """
    parts = [part for part in _NOT_IN_NAMES.split(name) if part]
    parts += _unit_parts(unit, parts)
    if kind == COUNTER:
        parts = [part for part in parts if part != "total"] + ["total"]
    if kind == GAUGE and unit == "1":
        parts = [part for part in parts if part != "ratio"] + ["ratio"]
    found = "_".join(parts) or "_"
    return "_" + found if found[0].isdigit() else found


@functools.lru_cache(maxsize=65_536)
def label_name(key: str) -> str:
    """The Prometheus label for an attribute's key: a valid one stays as it is."""
    if _LABEL.fullmatch(key):
        return key
    found = _NOT_IN_LABELS.sub("_", key) or "_"
    return "key_" + found if found[0].isdigit() else found


def _unit_parts(unit: str, parts: list[str]) -> list[str]:
    """What a unit adds: ``bytes``, ``per_second``; nothing that the name says already, and no annotation in braces."""
    main, _, per = unit.partition("/")
    found = []
    for text, words, prefix in ((main, _UNITS, ""), (per, _PER, "per_")):
        own = text.strip()
        if not own or "{" in own or "}" in own:
            continue
        word = _NOT_IN_UNITS.sub("_", words.get(own, own)).strip("_")
        if word and prefix + word not in parts:
            found.append(prefix + word)
    return found
