"""Reading hot memory and the lake as one, each row exactly once, as of a journal position."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import duckdb

from misstep.core.errors import StorageError
from misstep.store.hot import Hot
from misstep.store.origin import BITS
from misstep.store.sources import Ends, Sources

Parameters = Sequence[object]


class Reader:
    """One position of the journal; what lies behind it is not seen. Any thread may ask, one is served at a time.

    All questions are asked in one transaction: DuckLake reads its catalog once for each.

    Attributes:
        position: the last seq that is read and when it was received; zeroes if there is none.
        current: it reads all that this collector received, up to now, and nobody else's rows.
    """

    def __init__(self, hot: Hot, until: int | None, *, own: bool = False) -> None:
        """Look for what was received before `until`.

        Args:
            hot: the newest rows, in whose database the lake is attached.
            until: Unix nanoseconds; None for all that is there.
            own: only what this collector received, where several fill the lake.

        Raises:
            StorageError: the lake cannot be read.
        """
        self._hot = hot
        self._everyone = hot.shared and not own
        self.current = until is None and not self._everyone
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._ends: Ends | None = None
        self.position = (0, 0)
        self._find(until)

    @property
    def ends(self) -> Ends | None:
        """The last seq that is read of each origin; None if the snapshot is all that bounds it."""
        return self._ends

    def rows(
        self, query: str, parameters: Parameters = (), *, everything: bool = False, after: int = -1
    ) -> list[tuple[Any, ...]]:
        """Run a query in which ``{logs}``, ``{samples}``, … stand for tables up to this position.

        Args:
            query: SQL.
            parameters: for its question marks.
            everything: read the tables without an end.
            after: of tables only rows behind this position may be left in.

        Raises:
            StorageError: the lake cannot be read.
        """
        ends = None if everything else self._ends
        found: list[tuple[Any, ...]] = self._ask(
            query, parameters, ends, lambda answer: answer.fetchall(), after=after
        )
        return found

    def arrays(
        self, query: str, parameters: Parameters = (), *, tables: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same, as numpy arrays by column.

        Args:
            query: SQL.
            parameters: for its question marks.
            tables: Arrow tables that the query may name.
        """
        found: dict[str, Any] = self._ask(
            query, parameters, self._ends, lambda answer: answer.fetchnumpy(), tables
        )
        return found

    def arrow(
        self,
        query: str,
        parameters: Parameters = (),
        *,
        tables: Mapping[str, Any] | None = None,
        batch: int = 1_000_000,
        after: int = -1,
    ) -> Any:
        """The same, as an Arrow table in chunks of so many rows."""
        return self._ask(
            query, parameters, self._ends, lambda answer: answer.to_arrow_table(batch), tables, after
        )

    def interrupt(self) -> None:
        """End the question that is being answered, from another thread; it raises StorageError."""
        cursor = self._cursor
        if cursor is not None:
            cursor.interrupt()

    def _find(self, before: int | None) -> None:
        own = self._hot.origin
        until = before if before is not None else (1 << 63) - 1
        if self._everyone and before is not None:
            rows = self.rows(
                f"SELECT seq >> {BITS}, max(seq), max(received) FROM {{requests}} WHERE received < ? GROUP BY 1",
                [until],
            )
            self._ends = {int(origin): int(seq) for origin, seq, _ in rows}
            last = max(rows, key=lambda row: row[2], default=(0, 0, 0))
            self.position = (int(last[1]), int(last[2]))
            return
        if before is None and self._hot.position is not None:
            self.position = self._hot.position
        else:
            self.position = self._look(until)
            if before is None:
                self._hot.found(self.position)
        # Rows of other collectors are in no order with ours; the snapshot bounds them.
        self._ends = None if self._everyone else {own.number: self.position[0]}

    def _look(self, until: int) -> tuple[int, int]:
        # Nearly always memory knows; positions are in the order of receipt.
        for after in (self._floor(), -1):
            rows = self.rows(
                f"SELECT max(seq), max(received) FROM {{requests}} "
                f"WHERE received < ? AND {self._hot.origin.holds()} AND seq > {after}",
                [until],
                after=after,
            )
            if rows and rows[0][0] is not None:
                return int(rows[0][0]), int(rows[0][1])
        return 0, 0

    def _floor(self) -> int:
        with self._lock:
            try:
                if self._cursor is None:
                    self._begin()
                return self._sources.floor
            except duckdb.Error as error:
                raise StorageError(f"the store cannot be read: {error}") from error

    def _ask(
        self,
        query: str,
        parameters: Parameters,
        ends: Ends | None,
        fetch: Callable[[duckdb.DuckDBPyConnection], Any],
        tables: Mapping[str, Any] | None = None,
        after: int = -1,
    ) -> Any:
        with self._lock:
            try:
                cursor = self._cursor or self._begin()
                for name, table in (tables or {}).items():
                    cursor.register(name, table)
                return fetch(cursor.execute(query.format_map(self._sources.tables(ends, after)), parameters))
            except duckdb.Error as error:
                self._cursor = None
                raise StorageError(f"the store cannot be read: {error}") from error

    def _begin(self) -> duckdb.DuckDBPyConnection:
        """A snapshot: floor and hot rows belong together, and the lake only ever gains rows above the floor."""
        cursor = self._hot.cursor()
        cursor.execute("BEGIN")
        row = cursor.execute("SELECT seq FROM memory.main.floor").fetchone()
        floor = int(row[0]) if row else 0
        foreign = None
        if self._everyone:
            # In the transaction in which the lake is read: a row is either sealed or told by its owner.
            foreign = {number: number << BITS for number in self._hot.foreign_origins}
            for number, seq in cursor.execute(
                f"SELECT seq >> {BITS}, max(seq) FROM lake.main.positions GROUP BY 1"
            ).fetchall():
                if number in foreign:
                    foreign[int(number)] = int(seq)
        self._sources = Sources(self._hot.origin, floor, foreign)
        self._cursor = cursor
        return cursor
