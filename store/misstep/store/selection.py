"""From matchers to samples: series by the index, samples in one scan, put in order without a comparison sort."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from misstep.core.clock import SECOND
from misstep.store.blocks import NEVER
from misstep.store.columns import I64, U64
from misstep.store.promql.errors import too_many
from misstep.store.promql.labels import I32, NAME, Bool, Index, Labels
from misstep.store.promql.matrix import F64
from misstep.store.promql.patterns import places
from misstep.store.promql.source import Selection
from misstep.store.promql.steps import Steps
from misstep.store.promql.syntax import Matcher
from misstep.store.reader import Reader
from misstep.store.series_index import Known

_EXACT_SPAN = 2 * 3600 * SECOND
"""Time range up to which it is looked whether a series has samples in it; Prometheus' own answers are no finer."""
_AGES = (10 * SECOND, 60 * SECOND)
_FEW = 2000
"""Series up to which DuckDB joins them; it then skips most of what is not wanted."""
_BATCH = 1 << 17
"""Samples at a time: what is made of them stays in the cache."""
_BEATS = 1.6
_SORTED_AT = 100_000
_PORTION, _TOGETHER = 500_000, 512
"""Samples above which so many series at a time are put in order."""
_SPREAD_MOST = 40_000_000
_LISTED = 64
_DENSE = 10
"""Samples a second and series above which a selection would be cut off late."""


def choose(known: Known, matchers: Sequence[Matcher]) -> Known:
    """The series that all matchers match, in the order in which the lake sorts their samples."""
    return _sorted(known, places(known.labels, matchers))


def of_metrics(known: Known, metrics: Sequence[int]) -> Known:
    """The series of some metrics, in the same order."""
    return _sorted(known, np.flatnonzero(np.isin(known.metrics, np.array(metrics, np.uint32))))


def _sorted(known: Known, found: Index) -> Known:
    order = np.lexsort((known.ids[found], known.metrics[found]))
    found = found[order]
    return Known(known.labels.take(found), known.ids[found], known.metrics[found])


def any_of(known: Known, alternatives: Sequence[Sequence[Matcher]]) -> Known:
    """The series that one of some conjunctions of matchers matches, in the order in which they were learned."""
    wanted = np.zeros(known.labels.size, np.bool_)
    for matchers in alternatives:
        wanted[places(known.labels, matchers)] = True
    return Known(known.labels.take(wanted), known.ids[wanted], known.metrics[wanted])


def samples(reader: Reader, known: Known, start: int, end: int, limit: int) -> Selection:
    """Samples with start < ts <= end of all these series, by row and time.

    Raises:
        QueryError: there are more than `limit`.
        StorageError: the store cannot be read, or the question was interrupted.
    """
    if not len(known.ids) or end <= start:
        nothing = np.zeros(0, np.int64)
        return Selection(Labels.none(0), nothing, nothing, np.zeros(0))
    labels, row_of = distinct(known.labels)
    row, ts, value = _samples(reader, known, row_of, labels.size, start, end, limit)
    return Selection(labels, np.bincount(row, minlength=labels.size), ts, value)


def sorted_samples(reader: Reader, known: Known, start: int, end: int, limit: int) -> tuple[I32, I64, F64]:
    """The same, each series a row of its own, whatever its labels: row, time and value."""
    return _samples(
        reader, known, np.arange(len(known.ids), dtype=np.int32), len(known.ids), start, end, limit
    )


def _samples(
    reader: Reader, known: Known, row_of: I32, rows: int, start: int, end: int, limit: int
) -> tuple[I32, I64, F64]:
    row, ts, value = _whole(_scan(reader, known, row_of, start, end, limit))
    row, ts, value, repeated = ordered(row, ts, value, rows)
    if repeated:
        # Twice at the same time: what came last counts.
        row, ts, value = _whole(_scan(reader, known, row_of, start, end, limit, order=True))
        row, ts, value, _ = ordered(row, ts, value, rows)
        last = np.append((row[1:] != row[:-1]) | (ts[1:] != ts[:-1]), True)
        row, ts, value = row[last], ts[last], value[last]
    return row, ts, value


def newest(reader: Reader, known: Known, ends: Steps, lookback: int, limit: int) -> tuple[Labels, F64, I64]:
    """The newest sample of each series at each step: values and times, both of shape (n, S).

    Where there is none, its time is `NEVER`. Each sample belongs to the first step at or after it; the last write of a
    cell wins, and a forward fill carries it on. Steps come first in memory, as samples arrive.

    Raises:
        QueryError: there are more than `limit` samples.
        StorageError: the store cannot be read, or the question was interrupted.
    """
    labels, row_of = distinct(known.labels)
    if labels.size * ends.number > limit:
        raise too_many()
    single = not ends.step or ends.number == 1
    steps = ends._replace(number=1, step=max(ends.step, 1)) if single else ends
    cells = Cells(steps, labels.size)
    if len(known.ids):
        for wanted, begin, end in _stretches(cells, known, row_of, steps, lookback, single=single):
            part = Known(known.labels, known.ids[wanted], known.metrics[wanted])
            if not all(cells.put(*some) for some in _scan(reader, part, row_of[wanted], begin, end, limit)):
                for some in _scan(reader, part, row_of[wanted], begin, end, limit, order=True):
                    cells.put(*some)
    values, times = cells.filled()
    if single and ends.number > 1:
        shape = (labels.size, ends.number)
        return labels, np.broadcast_to(values.T, shape), np.broadcast_to(times.T, shape)
    return labels, values.T, times.T


class Cells:
    """A matrix of steps and series, into which samples are written as they come."""

    def __init__(self, steps: Steps, rows: int) -> None:
        self._steps, self._rows = steps, rows
        self.values = np.full(steps.number * rows, np.nan)
        self.times = np.full(steps.number * rows, NEVER)

    def put(self, row: I32, ts: I64, value: F64) -> bool:
        """Write samples; says whether each cell has its newest one, which is so if each row comes in order of time."""
        steps = self._steps
        cell = ts - (steps.start - steps.step + 1)
        cell //= steps.step
        np.maximum(cell, 0, out=cell)
        cell *= self._rows
        cell += row
        # Strictly: of two at the same time the one that was received last counts, which scans do not say.
        in_order = bool((self.times[cell] < ts).all())
        self.values[cell] = value
        self.times[cell] = ts
        return in_order and bool((self.times[cell] >= ts).all())

    def missing(self) -> Bool:
        """Which rows have nothing in the first step."""
        found: Bool = self.times[: self._rows] == NEVER
        return found

    def filled(self) -> tuple[F64, I64]:
        """Values and times with gaps filled from the step before, shape (S, n)."""
        shape = (self._steps.number, self._rows)
        values, times = self.values.reshape(shape), self.times.reshape(shape)
        empty = times == NEVER
        if not empty.any():
            return values, times
        source = np.where(empty, 0, np.arange(len(times))[:, None])
        np.maximum.accumulate(source, axis=0, out=source)
        return np.take_along_axis(values, source, 0), np.take_along_axis(times, source, 0)


def _stretches(
    cells: Cells, known: Known, row_of: I32, steps: Steps, lookback: int, *, single: bool
) -> Iterator[tuple[Index, int, int]]:
    """What is to be read: series, and times from (exclusive) and to.

    At a single step the newest sample of most series is some seconds old, so the lookback is read from its end.
    """
    everyone = np.arange(len(known.ids))
    if not single:
        yield everyone, steps.start - lookback, steps.end
        return
    end = steps.end
    for age in (*(age for age in _AGES if age < lookback), lookback):
        wanted = np.flatnonzero(cells.missing()[row_of])
        if not len(wanted):
            return
        yield wanted, steps.start - age, end
        end = steps.start - age


def _scan(
    reader: Reader, known: Known, row_of: I32, start: int, end: int, limit: int, *, order: bool = False
) -> Iterator[tuple[I32, I64, F64]]:
    """Row, time and value of all samples, some at a time, in the order in which they came, or in that of time."""
    condition = f"s.ts > {start} AND s.ts <= {end} AND {_metrics(known)}"
    dense = len(known.ids) * (end - start) // SECOND * _DENSE > limit
    tail = (" ORDER BY s.ts, s.seq" if order else "") + (f" LIMIT {limit + 1}" if dense else "")
    if len(known.ids) < _FEW:
        chosen = pa.table({"id": pa.array(known.ids), "row": pa.array(row_of)})
        query = "SELECT c.row, s.ts, s.value FROM {samples} s JOIN chosen c ON s.series_id = c.id"
        found = reader.arrow(f"{query} WHERE {condition}{tail}", tables={"chosen": chosen}, batch=_BATCH)
        lookup = None
    else:
        # Looking ids up ourselves costs a tenth of a join, but what is not wanted comes, too.
        query = "SELECT s.series_id, s.ts, s.value FROM {samples} s"
        found = reader.arrow(f"{query} WHERE {condition}{tail}", batch=_BATCH)
        lookup = Lookup(known.ids, row_of)
    total = 0
    for batch in found.to_batches():
        row, ts, value = (batch.column(place).to_numpy(zero_copy_only=False) for place in range(3))
        if lookup is not None:
            row = lookup.rows(row)
            wanted = row >= 0
            if not wanted.all():
                row, ts, value = row[wanted], ts[wanted], value[wanted]
        total += len(row)
        if total > limit:
            raise too_many()
        yield row, ts, value


def _whole(batches: Iterator[tuple[I32, I64, F64]]) -> tuple[I32, I64, F64]:
    parts = list(batches)
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0)
    row, ts, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return row, ts, value


class Lookup:
    """From ids to rows. Ids are hashes, so their upper bits address a table; the few that collide are searched.

    Args:
        ids: distinct.
        rows: of each id.
    """

    def __init__(self, ids: U64, rows: I32) -> None:
        bits = min(max(int(len(ids) - 1).bit_length() + 5, 8), 24)
        self._shift = np.uint64(64 - bits)
        order = np.argsort(ids)
        self._ids, self._rows = ids[order], rows[order]
        slot = (self._ids >> self._shift).astype(np.int64)
        self._table = np.full(1 << bits, -1, np.int32)
        self._table[slot] = np.arange(len(ids), dtype=np.int32)
        crowded = slot[1:][slot[1:] == slot[:-1]]
        self._table[crowded] = -2
        self._crowded = bool(len(crowded))

    def rows(self, ids: U64) -> I32:
        """The row of each id, -1 for those that are unknown."""
        place = self._table[(ids >> self._shift).astype(np.int64)]
        if self._crowded:
            index = np.flatnonzero(place == -2)
            searched = np.searchsorted(self._ids, ids[index])
            place[index] = np.minimum(searched, len(self._ids) - 1)
        # An empty slot leads to the last id, which is another one or has a slot of its own.
        found: I32 = self._rows[place]
        right = self._ids[place] == ids
        if not right.all():
            found[~right] = -1
        return found


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
        if len(row) > _PORTION and rows > 2 * _TOGETHER:
            return _portions(row, ts, value)
        spread = _spread(row, ts, value, rows)
        if spread is not None:
            return *spread, False
        order = _by_row(row, rows)
        row, ts, value = row[order], ts[order], value[order]
    same = row[1:] == row[:-1]
    if bool(((ts[1:] < ts[:-1]) & same).any()):
        order = np.lexsort((ts, row))
        row, ts, value = row[order], ts[order], value[order]
        same = row[1:] == row[:-1]
    return row, ts, value, bool(((ts[1:] == ts[:-1]) & same).any())


def _portions(row: I32, ts: I64, value: F64) -> tuple[I32, I64, F64, bool]:
    """Some rows at a time, so that what is put in order stays in the cache."""
    portion = (row // _TOGETHER).astype(np.uint16)
    order = np.argsort(portion, kind="stable")
    portion, row, ts, value = portion[order], row[order], ts[order], value[order]
    begins = [0, *(np.flatnonzero(np.diff(portion)) + 1).tolist(), len(row)]
    repeated = False
    for begin, end in itertools.pairwise(begins):
        some = slice(begin, end)
        first = int(portion[begin]) * _TOGETHER
        own, times, values, twice = ordered(row[some] - first, ts[some], value[some], _TOGETHER)
        row[some], ts[some], value[some] = own + first, times, values
        repeated |= twice
    return row, ts, value, repeated


def _spread(row: I32, ts: I64, value: F64, rows: int) -> tuple[I32, I64, F64] | None:
    """Sorted without comparing, where samples come at a beat: each into its own cell of a matrix of series and beats.

    None where two would share a cell, or too many cells would stay empty.
    """
    first, last = int(ts.min()), int(ts.max())
    beats = int(len(row) / rows * _BEATS) + 1
    if len(row) < _SORTED_AT or last == first or beats * rows > _SPREAD_MOST:
        return None
    width = (last - first) // beats + 1
    cell = ts - first
    cell //= width
    cell *= rows
    cell += row
    taken = np.zeros(beats * rows, np.bool_)
    taken[cell] = True
    if np.count_nonzero(taken) < len(row):
        return None
    place = np.zeros(beats * rows, np.int32)
    place[cell] = np.arange(len(row), dtype=np.int32)
    order = place.reshape(beats, rows).T[taken.reshape(beats, rows).T]
    return row[order], ts[order], value[order]


def _by_row(row: I32, rows: int) -> NDArray[np.intp]:
    """A stable order: numpy sorts 16-bit numbers by radix, in time that grows with their number alone."""
    order = np.argsort(row.astype(np.uint16), kind="stable")
    if rows > 1 << 16:
        high = (row >> 16).astype(np.uint16)[order]
        order = order[np.argsort(high, kind="stable")]
    return order


def distinct(labels: Labels) -> tuple[Labels, I32]:
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
