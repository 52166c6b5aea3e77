"""History: DuckLake on a SQLite catalog and a folder of Parquet files.

The catalog is created by us in WAL mode (in SQLite's default mode readers starve the writer). The extensions come
as wheels of exactly DuckDB's version and are loaded by path, so nothing is downloaded. One thread writes.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from misstep.core.errors import MissingExtraError, StorageError
from misstep.store.schema import TABLES, VERSION, Table
from misstep.store.segment import HighWater, Marks

MERGE_EVERY = 8
"""Seals after which their small files are merged."""

ROW_GROUP = 1_000_000
"""Rows; times and positions then become shared dictionaries, a third smaller than with the default."""

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Checking the signature reads 40 MB at each start; pip has checked the wheel, and nothing else is ever loaded.
    "allow_unsigned_extensions": "true",
}
"""How every DuckDB of ours is started."""

_EXTENSIONS = ("sqlite_scanner", "ducklake")
_OWN = {
    "meta": "key VARCHAR, value BIGINT",
    "positions": "seq BIGINT, received BIGINT",
    "high_water": "agent VARCHAR, boot VARCHAR, agent_seq BIGINT, received BIGINT",
}


class Lake:
    """The lake as one process writes it. Readers use cursors of `connection`, in which it is attached as ``lake``."""

    def __init__(self, folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
        """Open or create.

        Raises:
            StorageError: the disk refuses, the catalog is damaged or of a newer version.
        """
        self.folder = folder
        self._data = folder / "data"
        self._seals = 0
        self._position: tuple[int, int] | None = None
        self._synced = 0.0
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            _create_catalog(folder / "catalog.sqlite")
            load_extensions(connection)
            connection.execute(attachment(folder))
            self._db = connection
            self._create_tables()
        except (OSError, duckdb.Error, sqlite3.Error) as error:
            raise StorageError(f"cannot open the lake in {folder}: {error}") from error

    def position(self) -> tuple[int, int]:
        """Last seq that is sealed and its time of receipt; zeroes if there is none."""
        if self._position is None:
            row = self._db.execute("SELECT max(seq), max(received) FROM lake.positions").fetchone()
            self._position = (int(row[0]), int(row[1])) if row and row[0] is not None else (0, 0)
        return self._position

    def marks(self) -> Marks:
        """High-water marks as they were when the newest seal was made."""
        rows = self._db.execute(
            "SELECT agent, boot, max(agent_seq), max(received) FROM lake.high_water GROUP BY ALL"
        ).fetchall()
        return {(agent, boot): HighWater(int(seq), int(received)) for agent, boot, seq, received in rows}

    def first_after(self, received: int) -> int:
        """The first seq that was received after a time; one past the end if there is none."""
        row = self._db.execute("SELECT min(seq) FROM lake.requests WHERE received > ?", [received]).fetchone()
        return int(row[0]) if row and row[0] is not None else self.position()[0] + 1

    def newest(self, budget: int) -> int:
        """The seq before the newest requests whose payloads make up so many bytes."""
        row = self._db.execute(
            "SELECT max(seq) FROM (SELECT seq, sum(bytes) OVER (ORDER BY seq DESC) AS size FROM lake.requests) "
            "WHERE size > ?",
            [budget],
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def read(self, after: int) -> dict[str, list[Any]]:
        """Arrow tables of all rows with a greater seq, by table."""
        return {
            table.name: [
                self._db.execute(
                    f"SELECT {table.names} FROM lake.{table.name} WHERE seq > ? ORDER BY seq", [after]
                ).to_arrow_table()
            ]
            for table in TABLES
        }

    def ids(self, column: str, table: str, since: int) -> NDArray[np.uint64]:
        """Distinct ids in a column of a table, of rows with seq >= since."""
        found = self._db.execute(
            f"SELECT DISTINCT {column} AS id FROM lake.{table} WHERE seq >= ?", [since]
        ).fetchnumpy()["id"]
        return np.asarray(found, np.uint64)

    def events(self, limit: int) -> list[str]:
        """Ids of the newest events, oldest first."""
        rows = self._db.execute(
            "SELECT event_id FROM lake.logs WHERE event_id <> '' ORDER BY seq DESC, row DESC LIMIT ?", [limit]
        ).fetchall()
        return [row[0] for row in reversed(rows)]

    def seal(self, after: int, upto: int, received: int, marks: Marks) -> None:
        """Move hot rows with after < seq <= upto into the lake, with the position, in one transaction.

        Raises:
            StorageError: the disk refuses; nothing changed.
        """
        self._position = None
        try:
            self._db.execute("BEGIN")
            try:
                for table in TABLES:
                    self._db.execute(
                        f"INSERT INTO lake.{table.name} ({table.names}) SELECT {table.names} FROM {table.name} "
                        f"WHERE seq > ? AND seq <= ? ORDER BY {table.sort}",
                        [after, upto],
                    )
                self._db.execute("INSERT INTO lake.positions VALUES (?, ?)", [upto, received])
                for (agent, boot), mark in marks.items():
                    self._db.execute("INSERT INTO lake.high_water VALUES (?, ?, ?, ?)", [agent, boot, *mark])
                self._sync_files()
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        except (OSError, duckdb.Error) as error:
            raise StorageError(f"the lake in {self.folder} cannot be written: {error}") from error

    def confirmed(self) -> int:
        """The sealed position as a fresh connection reads it from disk.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            with duckdb.connect(":memory:", config={**CONFIG, "threads": "1"}) as fresh:
                load_extensions(fresh)
                fresh.execute(attachment(self.folder, read_only=True))
                row = fresh.execute("SELECT max(seq) FROM lake.positions").fetchone()
        except duckdb.Error as error:
            raise StorageError(f"the lake in {self.folder} cannot be read back: {error}") from error
        return int(row[0]) if row and row[0] is not None else 0

    def maintain(self, *, force: bool = False) -> bool:
        """Merge small files and delete those that no reader needs; says whether it did.

        Raises:
            StorageError: the disk refuses.
        """
        self._seals += 1
        if not force and self._seals % MERGE_EVERY:
            return False
        age = "0 seconds" if force else "10 minutes"
        try:
            for call in (
                # Seals of a few rows stay in the catalog until here.
                "ducklake_flush_inlined_data('lake')",
                "ducklake_merge_adjacent_files('lake')",
                f"ducklake_expire_snapshots('lake', older_than => CAST(now() AS TIMESTAMP) - INTERVAL '{age}')",
                f"ducklake_cleanup_old_files('lake', older_than => CAST(now() AS TIMESTAMP) - INTERVAL '{age}')",
            ):
                self._db.execute(f"SELECT count(*) FROM {call}").fetchall()
            self._sync_files()
        except (OSError, duckdb.Error) as error:
            raise StorageError(f"the lake in {self.folder} cannot be merged: {error}") from error
        return True

    def size(self) -> int:
        """Bytes of catalog and files."""
        found = 0
        for root, _, files in os.walk(self.folder):
            for name in files:
                try:
                    found += os.stat(os.path.join(root, name)).st_size  # noqa: PTH118
                except FileNotFoundError:
                    continue
        return found

    def _create_tables(self) -> None:
        known: dict[str, set[str]] = {}
        for table, column in self._db.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_catalog = 'lake'"
        ).fetchall():
            known.setdefault(table, set()).add(column)
        if "meta" in known:
            row = self._db.execute("SELECT max(value) FROM lake.meta WHERE key = 'version'").fetchone()
            version = int(row[0]) if row and row[0] is not None else VERSION
            if version > VERSION:
                raise StorageError(
                    f"{self.folder} was written by a newer Misstep; upgrade, or use another data folder"
                )
            if version == VERSION:
                return
        self._db.execute("BEGIN")
        for name, ddl in _OWN.items():
            if name not in known:
                self._db.execute(f"CREATE TABLE lake.{name}({ddl})")
        for table in TABLES:
            self._create(table, known.get(table.name))
        self._db.execute("INSERT INTO lake.meta VALUES ('version', ?)", [VERSION])
        self._db.execute("COMMIT")
        self._db.execute("CALL lake.set_option('parquet_compression', 'zstd')")
        self._db.execute(f"CALL lake.set_option('parquet_row_group_size', {ROW_GROUP})")

    def _create(self, table: Table, known: set[str] | None) -> None:
        """Make a table, or give one of an older version the columns that it lacks."""
        if known is None:
            self._db.execute(f"CREATE TABLE lake.{table.name}({table.ddl})")
            self._db.execute(f"ALTER TABLE lake.{table.name} SET SORTED BY ({table.sort})")
            return
        for name, kind in table.columns:
            if name not in known:
                self._db.execute(f'ALTER TABLE lake.{table.name} ADD COLUMN "{name}" {kind}')

    def _sync_files(self) -> None:
        """DuckDB does not sync what it writes: files since the last seal must be on disk before the catalog names them."""
        started = time.time()
        for root, _, files in os.walk(self._data):
            new = [os.path.join(root, name) for name in files]  # noqa: PTH118
            new = [path for path in new if os.stat(path).st_mtime >= self._synced - 60]
            for path in [*new, root] if new else []:
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        self._synced = started


def attachment(folder: Path, *, read_only: bool = False) -> str:
    """The statement that attaches the lake as ``lake``."""
    catalog, data = (str(folder / name).replace("'", "''") for name in ("catalog.sqlite", "data"))
    # The catalog remembers where the data lay; a folder that was moved or restored is read where it is now.
    options = f"DATA_PATH '{data}/', OVERRIDE_DATA_PATH true" + (", READ_ONLY" if read_only else "")
    return f"ATTACH 'ducklake:sqlite:{catalog}' AS lake ({options})"


def load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Load DuckLake and its SQLite catalog from the installed wheels."""
    for name in _EXTENSIONS:
        connection.execute(f"LOAD '{_extension(name)}'")


@functools.cache
def _extension(name: str) -> str:
    package = f"duckdb_extension_{name}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the store", "store", package)
    folder = Path(next(iter(spec.submodule_search_locations)))
    return str(next(folder.rglob(f"v{duckdb.__version__}/{name}.duckdb_extension"))).replace("'", "''")


def _create_catalog(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode=WAL")
    db.close()
