"""Answers in the shapes of Loki's API."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from misstep.collector.dialect import Answer
from misstep.collector.refusal import Refusal
from misstep.core.clock import SECOND
from misstep.store.loki import Entry, Matrix, Steps


def shape(refusal: Refusal) -> tuple[bytes, bytes]:
    """Loki says errors in plain text."""
    return refusal.message.encode(), b"text/plain; charset=utf-8"


def success(data: Any) -> Answer:
    """What most routes answer."""
    return plain({"status": "success", "data": data})


def plain(answer: Any) -> Answer:
    """An answer without the envelope."""
    return Answer(msgspec.json.encode(answer))


def streams(entries: Sequence[Entry], *, categorize: bool, seconds: float) -> Answer:
    """Lines by stream, in the order in which they come.

    Args:
        entries: the lines.
        categorize: whether metadata and parsed labels stand beside each line, as newer Grafanas ask; else they are
            labels of streams.
        seconds: how long it took.
    """
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for entry in entries:
        labels = entry.stream if categorize else {**entry.stream, **entry.metadata, **entry.parsed}
        stream = found.setdefault(tuple(sorted(labels.items())), {"stream": labels, "values": []})
        value: list[Any] = [str(entry.ts), entry.line]
        if categorize:
            kinds = {"structuredMetadata": entry.metadata, "parsed": entry.parsed}
            value.append({name: own for name, own in kinds.items() if own})
        stream["values"].append(value)
    data: dict[str, Any] = {"resultType": "streams", "result": list(found.values())}
    if categorize:
        data["encodingFlags"] = ["categorize-labels"]
    size = sum(len(entry.line) for entry in entries)
    return success({**data, "stats": _stats(seconds, len(entries), size)})


def matrix(found: Matrix | float, steps: Steps, *, seconds: float) -> Answer:
    """Series over time."""
    times = [_seconds(steps.start + i * steps.step) for i in range(steps.number)]
    if not isinstance(found, Matrix):
        return success(
            _numbers("matrix", [{"metric": {}, "values": [[t, number(found)] for t in times]}], seconds)
        )
    result = []
    for labels, values in zip(found.series, found.values.tolist(), strict=True):
        told = [[t, number(v)] for t, v in zip(times, values, strict=True) if not math.isnan(v)]
        if told:
            result.append({"metric": labels, "values": told})
    return success(_numbers("matrix", _ordered(result), seconds))


def vector(found: Matrix | float, at: int, *, seconds: float, ordered: bool = True) -> Answer:
    """Series at one time; of a number alone, that number."""
    if not isinstance(found, Matrix):
        return success(_numbers("scalar", [_seconds(at), number(found)], seconds))
    result = [
        {"metric": labels, "value": [_seconds(at), number(values[0])]}
        for labels, values in zip(found.series, found.values.tolist(), strict=True)
        if not math.isnan(values[0])
    ]
    return success(_numbers("vector", _ordered(result) if ordered else result, seconds))


def number(value: float) -> str:
    """A number as Go writes it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def _seconds(at: int) -> float | int:
    return at // SECOND if at % SECOND == 0 else round(at / SECOND, 3)


def _ordered(result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(result, key=lambda one: sorted(one["metric"].items()))


def _numbers(kind: str, result: Any, seconds: float) -> dict[str, Any]:
    return {"resultType": kind, "result": result, "stats": _stats(seconds, 0, 0)}


def _stats(seconds: float, lines: int, size: int) -> dict[str, Any]:
    return {"summary": {"execTime": seconds, "totalEntriesReturned": lines, "totalBytesProcessed": size}}
