"""The newest rows, in memory: DuckDB tables that are rebuilt from the journal at each start.

They hold every row whose seq lies above the *floor*; the lake answers for the rest. Readers take the floor in the
transaction in which they read, so that each row comes from exactly one of the two.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from misstep.store.origin import ALONE, BITS, Origin
from misstep.store.place import CONFIG
from misstep.store.schema import TABLES

if importlib.util.find_spec("pandas") is None:
    # DuckDB looks for pandas four times in each execute, on every entry of sys.path: 60 % of a small query's time.
    # pyarrow looks once, at its first array, and takes None for the module: so let it look before.
    pa.array([], pa.binary())
    sys.modules["pandas"] = None  # type: ignore[assignment]

_THREADS = str(max(1, min(4, (os.cpu_count() or 1) // 2)))
"""Half of the processors: an insert by two threads costs twice the time of one, and is not done sooner."""


class Hot:
    """One thread inserts, one evicts, any number read through cursors of their own.

    Attributes:
        foreign_origins: other collectors that told us what they have not sealed.
        position: seq and time of receipt of the newest request that is visible; None until one was seen.
    """

    def __init__(self, spill: Path, *, memory: int = 0, origin: Origin = ALONE, shared: bool = False) -> None:
        """Start empty.

        Args:
            spill: folder for what a query cannot hold in memory.
            memory: bytes that the database may take in all; 0 for half of the machine's.
            origin: whose rows are held.
            shared: other collectors fill the lake too; `foreign` takes what they have not sealed.
        """
        self.origin, self.shared = origin, shared
        self.memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        config = {**CONFIG, "threads": _THREADS, "temp_directory": str(spill)}
        self.connection = duckdb.connect(
            ":memory:", config={**config, "memory_limit": f"{self.memory // 1024}KiB"}
        )
        self._lock = threading.Lock()
        self.foreign_origins: frozenset[int] = frozenset()
        self.position: tuple[int, int] | None = None
        self._writer = self.cursor()
        self._chunks: deque[tuple[int, int]] = deque()
        self._unsealed = 0
        for table in TABLES:
            self._writer.execute(f"CREATE TABLE {table.name}({table.ddl})")
        self._writer.execute("CREATE TABLE floor(seq BIGINT)")
        self._writer.execute("INSERT INTO floor VALUES (?)", [origin.base])
        if shared:
            self._writer.execute("CREATE SCHEMA foreign_rows")
            for table in TABLES:
                self._writer.execute(f"CREATE TABLE foreign_rows.{table.name}({table.ddl})")

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for one thread."""
        with self._lock:
            return self.connection.cursor()

    def start_at(self, floor: int) -> None:
        """The lake has everything up to `floor`; called before the first insert."""
        self._writer.execute("UPDATE floor SET seq = ?", [floor])

    def insert(self, tables: dict[str, list[Any]]) -> None:
        """Put Arrow tables in, all in one transaction.

        Args:
            tables: by table name; each table's columns in any order. All rows of a request come together: who has
                seen its position asks for later ones alone.
        """
        whole = {name: pa.concat_tables(parts).combine_chunks() for name, parts in tables.items() if parts}
        self._writer.execute("BEGIN")
        try:
            for table in TABLES:
                if table.name in whole:
                    self._writer.register("arriving", whole[table.name])
                    self._writer.execute(
                        f"INSERT INTO {table.name} ({table.names}) SELECT {table.names} FROM arriving"
                    )
                    self._writer.unregister("arriving")
            self._writer.execute("COMMIT")
        except BaseException:
            self._writer.execute("ROLLBACK")
            raise
        requests = whole.get("requests")
        with self._lock:
            self._unsealed += sum(table.nbytes for table in whole.values())
            if requests is not None and requests.num_rows:
                newest = tuple(int(requests.column(name).to_numpy().max()) for name in ("seq", "received"))
                self.position = max(newest, self.position or newest)  # type: ignore[assignment]

    def found(self, position: tuple[int, int]) -> None:
        """What a reader found the newest request to be, for those after it while nothing arrives."""
        with self._lock:
            self.position = self.position or position

    def sealed(self, position: int, keep: int) -> None:
        """The lake has everything up to `position`; drop the oldest sealed chunks beyond `keep` bytes."""
        with self._lock:
            self._chunks.append((position, self._unsealed))
            self._unsealed = 0
            floor = 0
            while self._chunks and sum(size for _, size in self._chunks) > keep:
                floor = self._chunks.popleft()[0]
        if floor:
            self._evict(floor)

    def bytes(self) -> int:
        """Size of what is held, as Arrow counts it."""
        with self._lock:
            return self._unsealed + sum(size for _, size in self._chunks)

    def used(self) -> tuple[int, int]:
        """Bytes that the database holds in memory and on disk for what did not fit."""
        cursor = self.cursor()
        try:
            row = cursor.execute(
                "SELECT sum(memory_usage_bytes), sum(temporary_storage_bytes) FROM duckdb_memory()"
            ).fetchone()
        finally:
            cursor.close()
        return (int(row[0] or 0), int(row[1] or 0)) if row else (0, 0)

    def newer(self, after: int) -> dict[str, Any]:
        """Rows with a greater seq as Arrow tables, by name; those that went to the lake since may be absent."""
        cursor = self.cursor()
        try:
            cursor.execute("BEGIN")
            found = {
                table.name: cursor.execute(
                    f"SELECT {table.names} FROM memory.main.{table.name} WHERE seq > ? ORDER BY seq", [after]
                ).to_arrow_table()
                for table in TABLES
            }
        finally:
            cursor.close()
        return {name: rows for name, rows in found.items() if rows.num_rows}

    def take_foreign(self, tables: dict[str, Any], drop: dict[int, int]) -> None:
        """Put in what other collectors have not sealed, and drop what they have.

        Args:
            tables: Arrow tables by name.
            drop: for the base of an origin the position up to which its rows go.
        """
        cursor = self.cursor()
        try:
            cursor.execute("BEGIN")
            for table in TABLES:
                for base, position in drop.items():
                    cursor.execute(
                        f"DELETE FROM memory.foreign_rows.{table.name} WHERE seq > ? AND seq <= ?",
                        [base, position],
                    )
                if table.name in tables:
                    cursor.register("arriving_rows", tables[table.name])
                    cursor.execute(
                        f"INSERT INTO memory.foreign_rows.{table.name} SELECT {table.names} FROM arriving_rows"
                    )
                    cursor.unregister("arriving_rows")
            cursor.execute("COMMIT")
        finally:
            cursor.close()
        self.foreign_origins |= {base >> BITS for base in drop}

    def close(self) -> None:
        """Let go of the memory."""
        self._writer.close()
        self.connection.close()

    def _evict(self, floor: int) -> None:
        cursor = self.cursor()
        try:
            cursor.execute("BEGIN")
            cursor.execute("UPDATE floor SET seq = ?", [floor])
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table.name} WHERE seq <= ?", [floor])
            cursor.execute("COMMIT")
        finally:
            cursor.close()
