"""Reading hot memory and the lake as one, each row exactly once, as of a journal position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from misstep.core.errors import StorageError
from misstep.store.hot import Hot
from misstep.store.schema import TABLES

Parameters = Sequence[object]

_END = (1 << 63) - 1
_COLUMNS = {table.name: table.names for table in TABLES}


class Reader:
    """One position of the journal; what lies behind it is not seen. Any thread may ask.

    Attributes:
        upto: the last seq that is read.
    """

    def __init__(self, hot: Hot, upto: int) -> None:
        self._hot = hot
        self.upto = upto

    def everything(self) -> Reader:
        """The same without an end."""
        return Reader(self._hot, _END)

    def rows(self, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        """Run a query in which ``{logs}``, ``{samples}``, … stand for tables up to this position.

        Raises:
            StorageError: the lake cannot be read.
        """
        with self._transaction() as (cursor, tables):
            return cursor.execute(query.format_map(tables), parameters).fetchall()

    def arrays(self, query: str, parameters: Parameters = ()) -> dict[str, Any]:
        """The same, as numpy arrays by column."""
        with self._transaction() as (cursor, tables):
            found: dict[str, Any] = cursor.execute(query.format_map(tables), parameters).fetchnumpy()
            return found

    @contextmanager
    def _transaction(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, dict[str, str]]]:
        """A snapshot: floor and hot rows belong together, and the lake only ever gains rows above the floor."""
        cursor = self._hot.cursor()
        try:
            cursor.execute("BEGIN")
            row = cursor.execute("SELECT seq FROM memory.main.floor").fetchone()
            yield cursor, _sources(int(row[0]) if row else 0, self.upto)
        except duckdb.Error as error:
            raise StorageError(f"the store cannot be read: {error}") from error
        finally:
            cursor.close()


def position(hot: Hot, until: int | None) -> tuple[int, int]:
    """The last seq that was received before `until`, and when; zeroes if there is none."""
    before = until if until is not None else _END
    everything = Reader(hot, _END)
    for condition in ("seq > (SELECT seq FROM memory.main.floor)", "true"):
        rows = everything.rows(
            f"SELECT max(seq), max(received) FROM {{requests}} WHERE received < ? AND {condition}", [before]
        )
        if rows and rows[0][0] is not None:
            return int(rows[0][0]), int(rows[0][1])
    return 0, 0


def _sources(floor: int, upto: int) -> dict[str, str]:
    found = {}
    for table, columns in _COLUMNS.items():
        hot = f"SELECT {columns} FROM memory.main.{table} WHERE seq > {floor} AND seq <= {upto}"
        lake = f"SELECT {columns} FROM lake.main.{table} WHERE seq <= {min(floor, upto)}"
        found[table] = f"({hot} UNION ALL {lake})" if floor else f"({hot})"
    return found
