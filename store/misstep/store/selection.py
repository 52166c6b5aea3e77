"""From matchers to samples: series by the index, samples in one scan, put in order without a comparison sort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from misstep.core.clock import SECOND
from misstep.store.columns import I64
from misstep.store.promql.evaluate import too_many
from misstep.store.promql.labels import I32, NAME, Labels
from misstep.store.promql.matrix import F64
from misstep.store.promql.patterns import matching
from misstep.store.promql.source import Selection
from misstep.store.promql.syntax import Matcher
from misstep.store.reader import Reader
from misstep.store.series_index import Known

_EXACT_SPAN = 2 * 3600 * SECOND
"""Time range up to which it is looked whether a series has samples in it; Prometheus' own answers are no finer."""
_LISTED = 64
_DENSE = 10
"""Samples a second and series above which a selection would be cut off late."""


def choose(known: Known, matchers: Sequence[Matcher]) -> Known:
    """The series that all matchers match, in the order in which the lake sorts their samples."""
    found = np.flatnonzero(matching(known.labels, matchers))
    order = np.lexsort((known.ids[found], known.metrics[found]))
    found = found[order]
    return Known(known.labels.take(found), known.ids[found], known.metrics[found])


def any_of(known: Known, alternatives: Sequence[Sequence[Matcher]]) -> Known:
    """The series that one of some conjunctions of matchers matches, in the order in which they were learned."""
    wanted = np.zeros(known.labels.size, np.bool_)
    for matchers in alternatives:
        wanted |= matching(known.labels, matchers)
    return Known(known.labels.take(wanted), known.ids[wanted], known.metrics[wanted])


def samples(reader: Reader, known: Known, start: int, end: int, limit: int) -> Selection:
    """Samples with start < ts <= end of all these series, by row and time.

    Raises:
        QueryError: there are more than `limit`.
        StorageError: the store cannot be read, or the question was interrupted.
    """
    if not len(known.ids) or end <= start:
        nothing = np.zeros(0, np.int64)
        return Selection(Labels.none(0), nothing.astype(np.int32), nothing, np.zeros(0))
    labels, row_of = _distinct(known.labels)
    chosen = pa.table({"id": pa.array(known.ids), "row": pa.array(row_of)})
    metrics = _metrics(known)
    query = (
        f"SELECT c.row, s.ts, s.value FROM {{samples}} s JOIN chosen c ON s.series_id = c.id "
        f"WHERE s.ts > ? AND s.ts <= ? AND {metrics}"
    )
    dense = len(known.ids) * (end - start) // SECOND * _DENSE > limit
    found = reader.arrays(
        query + (f" LIMIT {limit + 1}" if dense else ""), [start, end], tables={"chosen": chosen}
    )
    row, ts, value = (np.asarray(found[name]) for name in ("row", "ts", "value"))
    if len(row) > limit:
        raise too_many()
    row, ts, value, repeated = ordered(row, ts, value, labels.size)
    if repeated:
        # Twice at the same time: what came last counts.
        found = reader.arrays(f"{query} ORDER BY c.row, s.ts, s.seq", [start, end], tables={"chosen": chosen})
        row, ts, value = (np.asarray(found[name]) for name in ("row", "ts", "value"))
        last = np.append((row[1:] != row[:-1]) | (ts[1:] != ts[:-1]), True)
        row, ts, value = row[last], ts[last], value[last]
    return Selection(labels, row, ts, value)


def living(reader: Reader, known: Known, start: int | None, end: int | None) -> Known:
    """Those series that have samples in a time range, if that is short enough to look."""
    if start is None or end is None or end - start > _EXACT_SPAN or not len(known.ids):
        return known
    found = reader.arrays(
        f"SELECT DISTINCT series_id AS id FROM {{samples}} WHERE ts >= ? AND ts <= ? AND {_metrics(known, '')}",
        [start, end],
    )["id"]
    kept = np.flatnonzero(np.isin(known.ids, np.asarray(found)))
    return Known(known.labels.take(kept), known.ids[kept], known.metrics[kept])


def ordered(row: I32, ts: I64, value: F64, rows: int) -> tuple[I32, I64, F64, bool]:
    """Samples by row and time, and whether two of a row have the same time.

    Args:
        row: below `rows`; samples of a row are mostly in order of time.
    """
    if not bool((row[1:] >= row[:-1]).all()):
        order = _by_row(row, rows)
        row, ts, value = row[order], ts[order], value[order]
    same = row[1:] == row[:-1]
    if bool(((ts[1:] < ts[:-1]) & same).any()):
        order = np.lexsort((ts, row))
        row, ts, value = row[order], ts[order], value[order]
        same = row[1:] == row[:-1]
    return row, ts, value, bool(((ts[1:] == ts[:-1]) & same).any())


def _by_row(row: I32, rows: int) -> NDArray[np.intp]:
    """A stable order: numpy sorts 16-bit numbers by radix, in time that grows with their number alone."""
    order = np.argsort(row.astype(np.uint16), kind="stable")
    if rows > 1 << 16:
        high = (row >> 16).astype(np.uint16)[order]
        order = order[np.argsort(high, kind="stable")]
    return order


def _distinct(labels: Labels) -> tuple[Labels, I32]:
    """Series whose names and labels became the same in Prometheus' form are one."""
    of, first = labels.group()
    if len(first) == labels.size:
        return labels, np.arange(labels.size, dtype=np.int32)
    return labels.take(first), of.astype(np.int32)


def _metrics(known: Known, alias: str = "s.") -> str:
    """A condition that lets the lake skip what belongs to other metrics."""
    metrics = np.unique(known.metrics).tolist()
    if len(metrics) > _LISTED:
        return f"{alias}metric BETWEEN {metrics[0]} AND {metrics[-1]}"
    return f"{alias}metric IN ({', '.join(map(str, metrics))})"


def names(known: Known) -> list[str]:
    """Distinct names of metrics."""
    return values(known, NAME)


def values(known: Known, label: str) -> list[str]:
    """Distinct values of a label, sorted."""
    codes, texts = known.labels.column(label)
    return sorted(texts[code] for code in np.unique(codes).tolist() if texts[code])
