"""Reading hot memory and the lake as one, each row exactly once, as of a journal position."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from misstep.core.errors import StorageError
from misstep.store.hot import Hot
from misstep.store.schema import TABLES

Parameters = Sequence[object]

_END = (1 << 63) - 1
_COLUMNS = {table.name: table.names for table in TABLES}


class Reader:
    """One position of the journal; what lies behind it is not seen. Any thread may ask, one is served at a time.

    All questions are asked in one transaction: DuckLake reads its catalog once for each.

    Attributes:
        position: the last seq that is read and when it was received; zeroes if there is none.
    """

    def __init__(self, hot: Hot, until: int | None) -> None:
        """Look for what was received before `until`.

        Raises:
            StorageError: the lake cannot be read.
        """
        self._hot = hot
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self.position = (_END, _END)
        self.position = self._find(until if until is not None else _END)

    def rows(
        self, query: str, parameters: Parameters = (), *, everything: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run a query in which ``{logs}``, ``{samples}``, … stand for tables up to this position.

        Args:
            query: SQL.
            parameters: for its question marks.
            everything: read the tables without an end.

        Raises:
            StorageError: the lake cannot be read.
        """
        upto = _END if everything else self.position[0]
        found: list[tuple[Any, ...]] = self._ask(query, parameters, upto, lambda answer: answer.fetchall())
        return found

    def arrays(self, query: str, parameters: Parameters = ()) -> dict[str, Any]:
        """The same, as numpy arrays by column."""
        found: dict[str, Any] = self._ask(
            query, parameters, self.position[0], lambda answer: answer.fetchnumpy()
        )
        return found

    def interrupt(self) -> None:
        """End the question that is being answered, from another thread; it raises StorageError."""
        cursor = self._cursor
        if cursor is not None:
            cursor.interrupt()

    def _find(self, before: int) -> tuple[int, int]:
        for condition in ("seq > (SELECT seq FROM memory.main.floor)", "true"):
            rows = self.rows(
                f"SELECT max(seq), max(received) FROM {{requests}} WHERE received < ? AND {condition}",
                [before],
            )
            if rows and rows[0][0] is not None:
                return int(rows[0][0]), int(rows[0][1])
        return 0, 0

    def _ask(
        self,
        query: str,
        parameters: Parameters,
        upto: int,
        fetch: Callable[[duckdb.DuckDBPyConnection], Any],
    ) -> Any:
        with self._lock:
            try:
                cursor = self._cursor or self._begin()
                return fetch(cursor.execute(query.format_map(_sources(self._floor, upto)), parameters))
            except duckdb.Error as error:
                self._cursor = None
                raise StorageError(f"the store cannot be read: {error}") from error

    def _begin(self) -> duckdb.DuckDBPyConnection:
        """A snapshot: floor and hot rows belong together, and the lake only ever gains rows above the floor."""
        cursor = self._hot.cursor()
        cursor.execute("BEGIN")
        row = cursor.execute("SELECT seq FROM memory.main.floor").fetchone()
        self._floor = int(row[0]) if row else 0
        self._cursor = cursor
        return cursor


def _sources(floor: int, upto: int) -> dict[str, str]:
    found = {}
    for table, columns in _COLUMNS.items():
        hot = f"SELECT {columns} FROM memory.main.{table} WHERE seq > {floor} AND seq <= {upto}"
        lake = f"SELECT {columns} FROM lake.main.{table} WHERE seq <= {min(floor, upto)}"
        found[table] = f"({hot} UNION ALL {lake})" if floor else f"({hot})"
    return found
