"""What series there are, held in memory as dictionary-encoded label columns, so that no query builds a dict a series.

It only ever grows, in journal order, and reads each row of table `series` once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.store.columns import I64, U64
from misstep.store.origin import BITS
from misstep.store.promql.labels import I32, NAME, Bool, Column, Labels
from misstep.store.translation import label_name

if TYPE_CHECKING:
    from misstep.store.reader import Reader

_QUERY = (
    "SELECT series_id, metric, coalesce(nullif(prometheus, ''), name) AS name, labels, seq FROM {series} "
    "WHERE {news}"
)


class Known(NamedTuple):
    """Series as of a journal position; arrays have shape (n,).

    Attributes:
        labels: in Prometheus' form, the name as ``__name__``.
        ids: `series_id`.
        metrics: hashes of the OpenTelemetry name, by which samples are sorted.
    """

    labels: Labels
    ids: U64
    metrics: NDArray[np.uint32]


class SeriesIndex:
    """Any thread may ask. One is grown for a store, not one for a view."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token: object = None
        self._marks: dict[int, int] = {}
        self._newest: dict[int, int] = {}
        self._size = 0
        self._ids = _Array(np.uint64)
        self._metrics = _Array(np.uint32)
        self._seqs = _Array(np.int64)
        self._columns: dict[str, _Dictionary] = {NAME: _Dictionary()}
        self._seen: set[int] = set()

    @property
    def size(self) -> int:
        """How many series were learned."""
        return self._size

    def known(self, reader: Reader) -> Known:
        """The series that a reader's position sees.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._lock:
            token = (reader.position, reader.ends)
            if token != self._token or reader.ends is None:
                after = min(self._marks.values(), default=-1)
                self._grow(reader.arrow(_QUERY.replace("{news}", self._news()), after=after))
                for origin, last in (reader.ends or {}).items():
                    self._marks[origin] = max(self._marks.get(origin, 0), last)
                self._token = token
            size, newest = self._size, list(self._newest.items())
            seqs = self._seqs.upto(size)
            columns = {name: c.column(size) for name, c in self._columns.items()}
            ids, metrics = self._ids.upto(size), self._metrics.upto(size)
        found = Known(Labels(columns, size), ids, metrics)
        ends = reader.ends
        if ends is None or all(ends.get(origin, 0) >= seq for origin, seq in newest):
            return found
        seen = _seen(seqs, ends)
        return Known(found.labels.take(seen), ids[seen], metrics[seen])

    def _news(self) -> str:
        """What has not been read yet: rows of one origin come in the order of their positions."""
        if not self._marks:
            return "true"
        later = [f"(seq > {mark} AND seq < {(origin + 1) << BITS})" for origin, mark in self._marks.items()]
        others = ", ".join(map(str, self._marks))
        return " OR ".join([*later, f"(seq >> {BITS}) NOT IN ({others})"])

    def _grow(self, rows: Any) -> None:
        rows = rows.combine_chunks()
        if not rows.num_rows:
            return
        seqs = rows["seq"].to_numpy()
        for origin in np.unique(seqs >> BITS).tolist():
            newest = int(seqs[seqs >> BITS == origin].max())
            self._newest[origin] = max(self._newest.get(origin, 0), newest)
            self._marks[origin] = max(self._marks.get(origin, 0), newest)
        ids = rows["series_id"].to_numpy()
        # A series is told again after a restart, and by each collector; the first time counts.
        order = np.lexsort((ids, seqs))
        _, first = np.unique(ids[order], return_index=True)
        index = np.sort(order[first])
        if self._seen:
            index = index[[id not in self._seen for id in ids[index].tolist()]]
        if not len(index):
            return
        if len(index) < len(ids):
            rows, ids, seqs = rows.take(pa.array(index)).combine_chunks(), ids[index], seqs[index]
            order = np.lexsort((ids, seqs))
        self._seen.update(ids.tolist())
        begin, self._size = self._size, self._size + len(ids)
        self._ids.put(begin, ids[order])
        self._metrics.put(begin, rows["metric"].to_numpy()[order])
        self._seqs.put(begin, seqs[order])
        # Texts stay where they are: to put them in order costs more than all else.
        place = np.empty(len(ids), np.int64)
        place[order] = np.arange(begin, self._size)
        self._columns[NAME].put(place, *_encoded(_flat(rows["name"])))
        labels = _flat(rows["labels"])
        offsets = labels.offsets.to_numpy()
        owner = np.repeat(place, np.diff(offsets))
        self._put_labels(owner, labels.keys[offsets[0] : offsets[-1]], labels.items[offsets[0] : offsets[-1]])

    def _put_labels(self, owner: I64, keys: Any, values: Any) -> None:
        codes, names = _encoded(keys)
        value_codes, texts = _encoded(values)
        # Keys that become the same label are put in order, so that their values are joined in order.
        for code in sorted(range(len(names)), key=names.__getitem__):
            place = np.flatnonzero(codes == code)
            column = self._columns.setdefault(label_name(names[code]), _Dictionary())
            column.put(owner[place], value_codes[place], texts)


def _seen(seqs: I64, ends: Mapping[int, int]) -> Bool:
    """Which rows a view sees."""
    found = np.zeros(len(seqs), np.bool_)
    for origin, last in ends.items():
        found |= (seqs <= last) & (seqs >> BITS == origin)
    return found


class _Array:
    """An array that grows at its end; what was handed out is never changed."""

    def __init__(self, kind: Any) -> None:
        self._data = np.zeros(1024, kind)

    def put(self, begin: int, values: NDArray[Any]) -> None:
        self.reserve(begin + len(values))
        self._data[begin : begin + len(values)] = values

    def reserve(self, size: int) -> NDArray[Any]:
        if size > len(self._data):
            grown = np.zeros(max(size, 2 * len(self._data)), self._data.dtype)
            grown[: len(self._data)] = self._data
            self._data = grown
        return self._data

    def upto(self, size: int) -> NDArray[Any]:
        return self.reserve(size)[:size]


class _Dictionary:
    """One label of all series."""

    def __init__(self) -> None:
        self._codes = _Array(np.int32)
        self._known = {"": 0}
        self._values = [""]

    def column(self, size: int) -> Column:
        return Column(self._codes.upto(size), self._values)

    def put(self, rows: I64, values: I32, texts: Sequence[str]) -> None:
        """Set the label of some series that have not been handed out yet; `values` are indexes into the texts."""
        if not len(rows):
            return
        codes = self._codes.reserve(int(rows.max()) + 1)
        taken = np.flatnonzero(codes[rows])
        into = np.zeros(len(texts), np.int32)
        into[values] = -1
        used = np.flatnonzero(into)
        into[used] = [self._code(texts[place]) for place in used.tolist()]
        fresh = into[values]
        # Prometheus joins the values of keys that its labels cannot tell apart.
        for place in taken.tolist():
            both = f"{self._values[codes[rows[place]]]};{self._values[fresh[place]]}"
            fresh[place] = self._code(both)
        codes[rows] = fresh

    def _code(self, text: str) -> int:
        code = self._known.get(text)
        if code is None:
            code = self._known[text] = len(self._values)
            self._values.append(text)
        return code


def _encoded(texts: Any) -> tuple[I32, list[str]]:
    """Texts as indexes into distinct ones."""
    encoded = pc.dictionary_encode(texts, null_encoding="encode")
    return encoded.indices.to_numpy(), [text or "" for text in encoded.dictionary.to_pylist()]


def _flat(column: Any) -> Any:
    """A chunked column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
