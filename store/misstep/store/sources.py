"""Where a table's rows come from at one moment: which rows hot memory answers for, and which the lake.

A collector's own rows above the *floor* are in hot memory, the rest in the lake. Of other collectors the lake has what is
sealed; what they told us of the rest lies in ``foreign_rows``, of which only what lies behind their sealed position counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from misstep.store.origin import BITS, Origin
from misstep.store.schema import TABLES

_COLUMNS = {table.name: table.names for table in TABLES}

Ends = Mapping[int, int]
"""For each origin's number the last position that is seen; an origin that is not there is not seen at all."""


class Sources(NamedTuple):
    """A moment.

    Attributes:
        origin: whose process this is.
        floor: the last of its positions that only the lake has.
        foreign: for each other origin its sealed position; None where only this origin's rows are asked for.
    """

    origin: Origin
    floor: int
    foreign: Mapping[int, int] | None = None

    def tables(self, ends: Ends | None, after: int = -1) -> dict[str, str]:
        """A subquery for each table.

        Args:
            ends: None sees everything.
            after: the question asks for greater positions of this origin alone; planning a scan of the lake costs
                more than a small question, so it is left out where it has none of them.
        """
        return {table: self._table(table, columns, ends, after) for table, columns in _COLUMNS.items()}

    def _table(self, table: str, columns: str, ends: Ends | None, after: int) -> str:
        # The lake first: a scan then meets the rows of a series in the order in which they were received.
        lake = "" if self.foreign is None and after >= self.floor else self._lake(ends)
        parts = [f"SELECT {columns} FROM lake.main.{table} WHERE {lake}"] if lake else []
        parts.append(f"SELECT {columns} FROM memory.main.{table} WHERE {self._hot(ends)}")
        if self.foreign:
            parts.append(f"SELECT {columns} FROM memory.foreign_rows.{table} WHERE {self._foreign(ends)}")
        return f"({' UNION ALL '.join(parts)})"

    def _own_end(self, ends: Ends | None) -> int:
        own = self.origin
        return own.end - 1 if ends is None else ends.get(own.number, own.base)

    def _hot(self, ends: Ends | None) -> str:
        return f"seq > {self.floor} AND seq <= {self._own_end(ends)}"

    def _lake(self, ends: Ends | None) -> str:
        own = self.origin
        upto = min(self.floor, self._own_end(ends))
        if self.foreign is None:
            # Without others, a first position of zero needs no condition.
            above = f"seq > {own.base} AND " if own.base else ""
            return f"{above}seq <= {upto}" if upto > own.base else ""
        parts = [f"(seq > {own.base} AND seq <= {upto})"] if upto > own.base else []
        if ends is None:
            parts.append(f"seq <= {own.base} OR seq >= {own.end}")
        else:
            parts += [f"(seq > {o << BITS} AND seq <= {end})" for o, end in ends.items() if o != own.number]
        return f"({' OR '.join(parts)})" if parts else ""

    def _foreign(self, ends: Ends | None) -> str:
        assert self.foreign is not None
        parts = []
        for number, sealed in self.foreign.items():
            end = Origin(number).end - 1 if ends is None else ends.get(number, 0)
            parts.append(f"(seq > {sealed} AND seq <= {end})")
        return f"({' OR '.join(parts) or 'false'})"
