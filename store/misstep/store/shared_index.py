"""The series of a lake that several collectors fill: positions of one are in no order with those of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from misstep.store.origin import BITS
from misstep.store.promql.labels import Labels
from misstep.store.series_index import Known, SeriesIndex

if TYPE_CHECKING:
    from misstep.store.reader import Reader

_QUERY = (
    "SELECT series_id, metric, coalesce(nullif(prometheus, ''), name) AS name, labels, seq FROM {{series}} "
    "WHERE {new}"
)


class SharedIndex(SeriesIndex):
    """Grown by each origin's own order. For views of all there is; a view of the past takes an index of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[int, int] = {}

    def known(self, reader: Reader) -> Known:
        """The series that a reader sees.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._lock:
            old = [f"(seq > {origin << BITS} AND seq <= {seq})" for origin, seq in self._positions.items()]
            rows = reader.arrow(_QUERY.format(new=f"NOT ({' OR '.join(old) or 'false'})"))
            self._grow(rows)
            seqs = rows["seq"].to_numpy()
            for origin in np.unique(seqs >> BITS).tolist():
                self._positions[origin] = int(seqs[seqs >> BITS == origin].max())
            size = self._size
            columns = {name: column.column(size) for name, column in self._columns.items()}
            return Known(Labels(columns, size), self._ids.upto(size), self._metrics.upto(size))
