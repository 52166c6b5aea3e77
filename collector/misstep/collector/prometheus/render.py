"""Answers as JSON, in pieces: numbers are written by Arrow, whole blocks at a time, and go out as they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core.clock import SECOND
from misstep.store.promql.labels import I64, Labels
from misstep.store.promql.matrix import F64
from misstep.store.promql.numbers import shown
from misstep.store.promql.query import Answer, Row

BLOCK = 1 << 16
"""Samples that are written at a time."""
_FEW = 2000
"""Samples up to which each is written by itself: a call of Arrow's costs as much as a hundred of them."""
_LARGE, _SMALL = 1e14, 1e-6
_SHORTEST, _LONGEST = 1e-4, 1e16
"""Python writes numbers between these as Go does, but for ``.0``."""
_MILLISECOND = 1_000_000
TRUNCATED = "results truncated due to limit"


def document(data: Any, warnings: Sequence[str] = ()) -> bytes:
    """A whole small answer."""
    found: dict[str, Any] = {"status": "success", "data": data}
    if warnings:
        found["warnings"] = list(warnings)
    return msgspec.json.encode(found)


def answer(found: Answer, limit: int = 0, warnings: Sequence[str] = ()) -> Iterator[bytes]:
    """The answer to a query.

    Args:
        found: what was found; it is used up.
        limit: at most so many series, 0 for all.
        warnings: what the reader must know besides.
    """
    head = b'{"status":"success","data":{"resultType":"%s","result":' % found.kind.encode()
    cut = bool(limit) and found.labels.size > limit
    told = [*warnings, *([TRUNCATED] if cut else [])]
    tail = b',"warnings":%s}' % msgspec.json.encode(told) if told else b"}"
    if found.kind == "string":
        text = msgspec.json.encode(found.text.encode("utf-8", "replace").decode())
        yield head + b"[%s,%s]}" % (moment(found.time).encode(), text) + tail
        return
    if found.kind == "scalar":
        row = next(found.rows())
        yield head + _point(row) + b"}" + tail
        return
    yield head + b"["
    metrics = _metrics(found.labels)
    kept = _limited(found.rows(), limit) if cut else found.rows()
    yield from _vector(kept, metrics) if found.kind == "vector" else _matrix(kept, metrics)
    yield b"]}" + tail


def moment(time: int) -> str:
    """Unix seconds of nanoseconds, to the millisecond, as Prometheus writes them."""
    whole, rest = divmod(time // _MILLISECOND, 1000)
    return f"{whole}.{rest:03d}" if rest else str(whole)


def number(value: float) -> str:
    """A value as Prometheus writes it into JSON: with an exponent only below 1e-6 and from 1e21."""
    size = abs(value)
    return repr(value) if 0 < size < _SMALL or 1e21 <= size < np.inf else shown(value)


def numbers(values: F64) -> Any:
    """The same for many values, as an Arrow array of texts."""
    texts = pc.cast(pa.array(values), pa.string())
    size = np.abs(values)
    odd = ~np.isfinite(values) | (size >= _LARGE) | ((size < _SMALL) & (size > 0))
    if odd.any():
        own = pa.array([number(value) for value in values[odd].tolist()], pa.string())
        texts = pc.replace_with_mask(texts, pa.array(odd), own)
    return texts


def _limited(rows: Iterator[Row], limit: int) -> Iterator[Row]:
    for _, row in zip(range(limit), rows, strict=False):
        yield row


def _point(row: Row) -> bytes:
    return b'[%s,"%s"]' % (moment(int(row.ts[0])).encode(), number(float(row.values[0])).encode())


def _metrics(labels: Labels) -> list[bytes]:
    """The labels of each series as a JSON object; each distinct value is escaped once."""
    columns = []
    for name in sorted(labels.columns):
        codes, values = labels.columns[name]
        used, inverse = np.unique(codes, return_inverse=True)
        key = msgspec.json.encode(name) + b":"
        texts = [key + _json(values[code]) + b"," if values[code] else b"" for code in used.tolist()]
        columns.append(np.array(texts, object)[inverse].tolist())
    if not columns:
        return [b"{}"] * labels.size
    return [b"{" + b"".join(parts)[:-1] + b"}" for parts in zip(*columns, strict=True)]


def _json(text: str) -> bytes:
    return msgspec.json.encode(text.encode("utf-8", "replace").decode())


def _vector(rows: Iterator[Row], metrics: list[bytes]) -> Iterator[bytes]:
    separator = b""
    for block in _blocks(rows):
        values = numbers(np.concatenate([row.values for row in block])).to_pylist()
        at = moment(int(block[0].ts[0]))
        parts = [
            b'{"metric":%s,"value":[%s,"%s"]}' % (metrics[row.place], at.encode(), value.encode())
            for row, value in zip(block, values, strict=True)
        ]
        yield separator + b",".join(parts)
        separator = b","


def _matrix(rows: Iterator[Row], metrics: list[bytes]) -> Iterator[bytes]:
    separator = b""
    times = _Times()
    for block in _blocks(rows):
        if sum(len(row.ts) for row in block) < _FEW:
            yield separator + b",".join(_written(row, metrics[row.place]) for row in block)
            separator = b","
            continue
        begins = times.of(block)
        values = numbers(np.concatenate([row.values for row in block]))
        pairs = pc.binary_join_element_wise(begins, values, pa.scalar('"],'), "")
        offsets, data = _buffers(pairs)
        parts, at = [], 0
        for row in block:
            # The last comma of a series is left out.
            text = data[offsets[at] : offsets[at + len(row.ts)] - 1]
            at += len(row.ts)
            parts.append(b'{"metric":%s,"values":[%s]}' % (metrics[row.place], text))
        yield separator + b",".join(parts)
        separator = b","


def _written(row: Row, metric: bytes) -> bytes:
    """One series, number by number."""
    values = ",".join(
        [f'[{at},"{value}"]' for at, value in zip(_moments(row.ts), _numbers(row.values), strict=True)]
    )
    return b'{"metric":%s,"values":[%s]}' % (metric, values.encode())


def _moments(times: I64) -> list[str]:
    seconds, rest = np.divmod(times, SECOND)
    return list(map(moment, times.tolist())) if rest.any() else list(map(str, seconds.tolist()))


def _numbers(values: F64) -> list[str]:
    size = np.abs(values)
    if ((size == 0) | ((size >= _SHORTEST) & (size < _LONGEST))).all():
        return [text.removesuffix(".0") for text in map(repr, values.tolist())]
    return list(map(number, values.tolist()))


def _blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.ts)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _buffers(texts: Any) -> tuple[NDArray[np.int32], bytes]:
    """Offsets and bytes of an Arrow array of texts."""
    _, offsets, data = texts.buffers()
    found = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    return found, data.to_pybytes() if data is not None else b""


class _Times:
    """Times as the beginnings of pairs; most series of an answer share theirs."""

    def __init__(self) -> None:
        self._shared: I64 | None = None
        self._texts: Any = None

    def of(self, block: list[Row]) -> Any:
        """Of all samples of some series, one after the other."""
        times = block[0].ts
        if not all(row.ts is times for row in block):
            return _begins(np.concatenate([row.ts for row in block]))
        if times is not self._shared:
            self._shared, self._texts = times, _begins(times)
        return pa.concat_arrays([self._texts] * len(block))


def _begins(times: I64) -> Any:
    milliseconds = times // _MILLISECOND
    whole, rest = milliseconds // 1000, milliseconds % 1000
    texts = pc.cast(pa.array(whole), pa.string())
    if rest.any():
        part = pc.utf8_lpad(pc.cast(pa.array(rest), pa.string()), width=3, padding="0")
        fraction = pc.if_else(pa.array(rest > 0), pc.binary_join_element_wise(".", part, ""), "")
        texts = pc.binary_join_element_wise(texts, fraction, "")
    return pc.binary_join_element_wise("[", texts, ',"', "")
