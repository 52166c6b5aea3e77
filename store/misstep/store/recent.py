"""What queries asked for lately, held in memory: a question about it again, or about what came since, reads next to nothing.

DuckDB keeps rows as they came; to find 400 series among 16,000 it looks at all of them, and planning a statement costs
milliseconds however little it reads. So the samples of a metric that was asked for are kept once more, by series.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from misstep.core.clock import SECOND
from misstep.store import selection
from misstep.store.blocks import Block, empty, laid_out
from misstep.store.columns import I64
from misstep.store.promql.errors import QueryError
from misstep.store.promql.labels import Bool
from misstep.store.series_index import Known

if TYPE_CHECKING:
    from misstep.store.reader import Reader

_EVER = 1 << 62
_LATE = 300 * SECOND
"""A range that ends no longer before the newest receipt is taken for one that goes on."""
_BUSY_SECONDS = 1.0
"""For so long a question waits until others have read what they want to keep; then it reads for itself."""
_SAMPLE = 16
_SHARE = 8
_LARGE = 4000
"""Series of a metric above which it is kept only if more than one in `_SHARE` of them was asked for."""


class Part(NamedTuple):
    """What a block holds of the series that a query has chosen.

    Attributes:
        chosen: which of them are in it: from one (inclusive) to another; those of a metric lie together.
        places: where in the block each of them is, shape (n,).
        there: whether it is, shape (n,); a series without samples is not.
    """

    block: Block
    chosen: slice
    places: I64
    there: Bool


class _Held:
    """A block, and the lowest time that was asked of it since it was laid out."""

    def __init__(self, block: Block) -> None:
        self.block, self.asked = block, _EVER


class Recent:
    """Blocks by metric, the least recently asked go first. Safe for any thread.

    It holds what this collector received itself, as of some position; views of the past do not use it.
    """

    def __init__(self, most: int) -> None:
        """Hold nothing yet.

        Args:
            most: bytes that may be held.
        """
        self._most = most
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._held: dict[int, _Held] = {}
        self._refused: dict[int, int] = {}
        self.bytes = 0
        self.hits = self.misses = 0

    def clear(self) -> None:
        """Forget everything: rows were deleted."""
        with self._reading, self._lock:
            self._held.clear()
            self._refused.clear()
            self.bytes = 0

    def stats(self) -> dict[str, float]:
        """Size and counters by name."""
        return {"recent_bytes": self.bytes, "recent_hits": self.hits, "recent_misses": self.misses}

    def parts(
        self, reader: Reader, whole: Known, chosen: Known, low: int, high: int, *, keep: bool = True
    ) -> list[Part] | None:
        """All samples of the chosen series with low < ts <= high, and more; None if they are not held.

        Args:
            reader: as of when.
            whole: all series.
            chosen: sorted by metric and id.
            low: Unix nanoseconds.
            high: Unix nanoseconds.
            keep: read and keep what is not held, if it is not too much.

        Raises:
            StorageError: the store cannot be read, or the question was interrupted.
        """
        if not reader.current or not self._most:
            return None
        stretches = _stretches(chosen)
        metrics = chosen.metrics[[some.start for some in stretches]].tolist() if stretches else []
        blocks = self._ready(reader, metrics, low, high)
        if blocks is None:
            if not self._reading.acquire(timeout=_BUSY_SECONDS):
                return None
            try:
                if self._read(reader, whole, chosen, metrics, low, high, keep=keep):
                    blocks = self._ready(reader, metrics, low, high)
            finally:
                self._reading.release()
        if blocks is None:
            self.misses += 1
            return None
        self.hits += 1
        return [
            Part(block, some, *block.places(chosen.ids[some]))
            for block, some in zip(blocks, stretches, strict=True)
        ]

    def _ready(self, reader: Reader, metrics: Sequence[int], low: int, high: int) -> list[Block] | None:
        """The blocks, if all are there and as of the reader's position."""
        position, found = reader.position[0], []
        with self._lock:
            for metric in metrics:
                held = self._held.get(metric)
                if held is None or held.block.mark != position or not _covers(held.block, low, high):
                    return None
                found.append(held.block)
            for metric in metrics:
                held = self._held[metric] = self._held.pop(metric)
                held.asked = min(held.asked, low)
        return found

    def _read(
        self,
        reader: Reader,
        whole: Known,
        chosen: Known,
        metrics: Sequence[int],
        low: int,
        high: int,
        *,
        keep: bool,
    ) -> bool:
        """Bring the blocks to the reader's position; says whether they may be there now."""
        position = reader.position[0]
        missing, behind = [], []
        for metric in metrics:
            held = self._held.get(metric)
            if held is None or not _covers(held.block, low, high):
                missing.append(metric)
            elif held.block.mark > position:
                return False
            elif held.block.mark < position:
                held.asked = min(held.asked, low)
                behind.append(metric)
        if missing and not (keep and self._fill(reader, whole, chosen, missing, low, high)):
            return False
        if behind:
            self._grow(reader, behind)
        return True

    def _fill(
        self, reader: Reader, whole: Known, chosen: Known, missing: Sequence[int], low: int, high: int
    ) -> bool:
        if any(low <= self._refused.get(metric, -_EVER) for metric in missing):
            return False
        series = selection.of_metrics(whole, missing)
        asked = int(np.isin(chosen.metrics, np.array(missing, np.uint32)).sum())
        if len(series.ids) > max(_LARGE, _SHARE * asked):
            return False
        low, high = self._range(reader, missing, low, high)
        try:
            row, ts, value = selection.sorted_samples(reader, series, low, high, self._most // _SAMPLE)
        except QueryError:
            self._refused.update(dict.fromkeys(missing, low))
            return False
        like = empty(low, high, reader.position[0])
        stretches = _stretches(series)
        edges = np.array([0, *(some.stop for some in stretches)], row.dtype)
        bounds = np.searchsorted(row, edges).tolist()
        for some, (begin, end) in zip(stretches, itertools.pairwise(bounds), strict=True):
            inside = slice(begin, end)
            # Copies: a part of an array would keep all of it in memory.
            ids, times, values = series.ids[some].copy(), ts[inside].copy(), value[inside].copy()
            block = laid_out(ids, row[inside] - some.start, times, values, like)
            self._put(int(series.metrics[some.start]), _Held(block))
        self._drop_beyond(set(missing))
        return True

    def _range(self, reader: Reader, missing: Sequence[int], low: int, high: int) -> tuple[int, int]:
        """What to read: what is asked, with what is held already if that is not much more."""
        if high >= reader.position[1] - _LATE:
            high = _EVER
        known = [held.block for metric in missing if (held := self._held.get(metric))]
        if known:
            wide = min(low, *(b.low for b in known)), max(high, *(b.high for b in known))
            now = reader.position[1]
            if min(wide[1], now) - wide[0] <= 2 * (min(high, now) - low):
                return wide
        return low, high

    def _grow(self, reader: Reader, metrics: Sequence[int]) -> None:
        position = reader.position[0]
        after = min(self._held[metric].block.mark for metric in metrics)
        wanted = ", ".join(map(str, metrics))
        rows = reader.arrow(
            "SELECT metric, series_id, ts, value, seq FROM {samples} "
            f"WHERE seq > {after} AND metric IN ({wanted}) ORDER BY metric, seq, ts",
            after=after,
        )
        metric, ids, ts, value, seq = (_array(rows.column(place)) for place in range(5))
        for number in metrics:
            held = self._held[number]
            begin, end = np.searchsorted(metric, [number, number + 1]).tolist()
            fresh = slice(begin + int(np.searchsorted(seq[begin:end], held.block.mark, "right")), end)
            grown = held.block.grown(ids[fresh], ts[fresh], value[fresh], position, held.asked)
            if grown.ts is held.block.ts:
                with self._lock:
                    held.block = grown
            else:
                self._put(number, _Held(grown))
        self._drop_beyond(set(metrics))

    def _put(self, metric: int, held: _Held) -> None:
        with self._lock:
            old = self._held.pop(metric, None)
            self.bytes += held.block.nbytes - (old.block.nbytes if old else 0)
            self._held[metric] = held

    def _drop_beyond(self, needed: set[int]) -> None:
        with self._lock:
            for metric in list(self._held):
                if self.bytes <= self._most:
                    return
                if metric not in needed:
                    self.bytes -= self._held.pop(metric).block.nbytes


def _stretches(known: Known) -> list[slice]:
    """Where the series of one metric after the other lie."""
    begins = [*np.flatnonzero(np.diff(known.metrics)) + 1]
    if not len(known.metrics):
        return []
    return [slice(int(a), int(b)) for a, b in zip([0, *begins], [*begins, len(known.metrics)], strict=True)]


def _covers(block: Block, low: int, high: int) -> bool:
    return block.low <= low and high <= block.high


def _array(column: Any) -> Any:
    return column.to_numpy()
