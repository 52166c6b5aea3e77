"""History: DuckLake, as one process writes it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from misstep.core.errors import StorageError
from misstep.store import migration, sample_files
from misstep.store.origin import ALONE, Origin
from misstep.store.place import CONFIG, Place, attachment, load_extensions
from misstep.store.schema import SAMPLES, TABLES, Table
from misstep.store.segment import HighWater, Marks
from misstep.store.sorting import by_series

__all__ = ["CONFIG", "Lake", "attachment", "load_extensions"]

_PORTION = 8_000_000
"""Samples that are sealed at once: 600 MB of memory while they are sorted."""

_LEVEL = 1
"""Of zstd: sealed files are merged soon."""

_FEW = 10
"""Rows that need no file of their own; DuckLake keeps so many in the catalog."""

Turn = Callable[[], AbstractContextManager[object]]
"""Waits until no other collector writes, and keeps it so until it is left."""


class Lake:
    """Readers use cursors of the connection, in which it is attached as ``lake``. One thread writes.

    What is read here is this collector's own: of its origin.
    """

    def __init__(
        self,
        place: Place,
        connection: duckdb.DuckDBPyConnection,
        origin: Origin = ALONE,
        turn: Turn = contextlib.nullcontext,
    ) -> None:
        """Open or create.

        Raises:
            StorageError: the disk refuses, the catalog is damaged, does not answer or is of a newer version.
        """
        self.place, self.origin = place, origin
        self._turn = turn
        self._position: tuple[int, int] | None = None
        self._synced = 0.0
        try:
            place.create()
            place.attach(connection)
            self._db = connection
            with turn():
                migration.prepare(connection, place.folder)
        except (OSError, duckdb.Error, sqlite3.Error) as error:
            raise StorageError(f"cannot open the lake in {place.folder}: {error}") from error

    def position(self) -> tuple[int, int]:
        """Last seq that is sealed and its time of receipt; the origin's base and zero if there is none.

        Raises:
            StorageError: the catalog cannot be read.
        """
        if self._position is None:
            try:
                self._position = position(self._db, self.origin)
            except duckdb.Error as error:
                raise StorageError(f"the lake in {self.place.folder} cannot be read: {error}") from error
        return self._position

    def marks(self) -> Marks:
        """High-water marks as they were when the newest seal was made, whoever made it."""
        rows = self._db.execute(
            "SELECT agent, boot, max(agent_seq), max(received) FROM lake.high_water GROUP BY ALL"
        ).fetchall()
        return {(agent, boot): HighWater(int(seq), int(received)) for agent, boot, seq, received in rows}

    def first_after(self, received: int) -> int:
        """The first seq that was received after a time; one past the end if there is none."""
        row = self._db.execute(
            f"SELECT min(seq) FROM lake.requests WHERE received > ? AND {self.origin.holds()}", [received]
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else self.position()[0] + 1

    def newest(self, budget: int) -> int:
        """The seq before the newest requests whose payloads make up so many bytes."""
        row = self._db.execute(
            "SELECT max(seq) FROM (SELECT seq, sum(bytes) OVER (ORDER BY seq DESC) AS size FROM lake.requests "
            f"WHERE {self.origin.holds()}) WHERE size > ?",
            [budget],
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else self.origin.base

    def read(self, after: int) -> dict[str, list[Any]]:
        """Arrow tables of all rows with a greater seq, by table."""
        return {
            table.name: [
                self._db.execute(
                    f"SELECT {table.names} FROM lake.{table.name} WHERE seq > ? AND {self.origin.holds()} "
                    "ORDER BY seq",
                    [after],
                ).to_arrow_table()
            ]
            for table in TABLES
        }

    def ids(self, column: str, table: str, since: int) -> NDArray[np.uint64]:
        """Distinct ids in a column of a table, of rows with seq >= since."""
        found = self._db.execute(
            f"SELECT DISTINCT {column} AS id FROM lake.{table} WHERE seq >= ? AND {self.origin.holds()}",
            [since],
        ).fetchnumpy()["id"]
        return np.asarray(found, np.uint64)

    def events(self, limit: int) -> list[str]:
        """Ids of the newest events, oldest first."""
        rows = self._db.execute(
            f"SELECT event_id FROM lake.logs WHERE event_id <> '' AND {self.origin.holds()} "
            "ORDER BY seq DESC, row DESC LIMIT ?",
            [limit],
        ).fetchall()
        return [row[0] for row in reversed(rows)]

    def seal(self, after: int, upto: int, received: int, marks: Marks) -> None:
        """Move hot rows with after < seq <= upto into the lake, with the position, in one transaction.

        Raises:
            StorageError: the disk refuses; nothing changed.
        """
        self._position = None
        with self.writing("written"):
            self._db.execute("BEGIN")
            try:
                for table in TABLES:
                    self._move(table, after, upto)
                self._db.execute("INSERT INTO lake.positions VALUES (?, ?)", [upto, received])
                for (agent, boot), mark in marks.items():
                    self._db.execute("INSERT INTO lake.high_water VALUES (?, ?, ?, ?)", [agent, boot, *mark])
                self.sync_files()
                self._db.execute("COMMIT")
            except BaseException:
                # A lost catalog has ended the transaction already, and what it says then hides the reason.
                with contextlib.suppress(duckdb.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _move(self, table: Table, after: int, upto: int) -> None:
        some = f"SELECT {table.names} FROM {table.name} WHERE seq > ? AND seq <= ?"
        into = f"INSERT INTO lake.{table.name} ({table.names})"
        if table is not SAMPLES:
            self._db.execute(f"{into} {some} ORDER BY {table.sort}", [after, upto])
            return
        while after < upto:
            end = self._portion(after, upto)
            rows = self._db.execute(some, [after, end]).to_arrow_table()
            self._db.register("sealing", by_series(rows))
            self._add("SELECT * FROM sealing", rows.num_rows, into)
            self._db.unregister("sealing")
            after = end

    def _add(self, query: str, number: int, into: str) -> None:
        """Sorted samples; few go into the catalog, as DuckLake does with all tables."""
        if number <= _FEW:
            self._db.execute(f"{into} {query}")
            return
        path, _ = sample_files.write(self._db, self.place, "sealed", query, level=_LEVEL)
        sample_files.add(self._db, path)

    def _portion(self, after: int, upto: int) -> int:
        """The position up to which about `_PORTION` samples lie; they are sorted in memory."""
        row = self._db.execute(
            "SELECT min(seq) FROM (SELECT seq, sum(number) OVER (ORDER BY seq) AS held FROM "
            "(SELECT seq, count(*) AS number FROM samples WHERE seq > ? AND seq <= ? GROUP BY seq)) WHERE held >= ?",
            [after, upto, _PORTION],
        ).fetchone()
        return int(row[0]) if row and row[0] is not None else upto

    def confirmed(self) -> int:
        """The sealed position as a fresh connection reads it from disk.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            with duckdb.connect(":memory:", config={**CONFIG, "threads": "1"}) as fresh:
                self.place.attach(fresh, read_only=True)
                return position(fresh, self.origin)[0]
        except duckdb.Error as error:
            raise StorageError(f"the lake in {self.place.folder} cannot be read back: {error}") from error

    @contextlib.contextmanager
    def writing(self, what: str) -> Any:
        """It is this collector's turn to write; gives the connection.

        Raises:
            StorageError: the disk or the catalog refuses, in here or in what is done here.
        """
        try:
            with self._turn():
                yield self._db
        except (OSError, duckdb.Error) as error:
            raise StorageError(f"the lake in {self.place.folder} cannot be {what}: {error}") from error

    def size(self) -> int:
        """Bytes of catalog and files, as far as they lie on this machine's disks."""
        found = 0
        for folder in {self.place.folder, *([] if self.place.remote else [self.place.files])}:
            for root, _, files in os.walk(folder):
                for name in files:
                    try:
                        found += os.stat(os.path.join(root, name)).st_size  # noqa: PTH118
                    except FileNotFoundError:
                        continue
        return found

    def tables(self) -> dict[str, tuple[int, int]]:
        """Files and bytes of each table, as the catalog knows them."""
        try:
            rows = (
                self._db.cursor()
                .execute("SELECT table_name, file_count, file_size_bytes FROM ducklake_table_info('lake')")
                .fetchall()
            )
        except duckdb.Error as error:
            raise StorageError(f"the lake in {self.place.folder} cannot be read: {error}") from error
        return {name: (int(files), int(size)) for name, files, size in rows}

    def sync_files(self) -> None:
        """DuckDB does not sync what it writes: files since the last seal must be on disk before the catalog names them."""
        if self.place.remote:
            return
        started = time.time()
        for root, _, files in os.walk(self.place.files):
            new = [path for path in (os.path.join(root, name) for name in files) if self._new(path)]  # noqa: PTH118
            for path in [*new, root] if new else []:
                with contextlib.suppress(FileNotFoundError):
                    _sync(path)
        self._synced = started

    def _new(self, path: str) -> bool:
        try:
            return os.stat(path).st_mtime >= self._synced - 60
        except FileNotFoundError:
            # Another collector has merged it away.
            return False


def position(db: duckdb.DuckDBPyConnection, origin: Origin) -> tuple[int, int]:
    """Last seq of an origin that the lake has, and its time of receipt."""
    row = db.execute(f"SELECT max(seq), max(received) FROM lake.positions WHERE {origin.holds()}").fetchone()
    return (int(row[0]), int(row[1])) if row and row[0] is not None else (origin.base, 0)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
