"""Merging of files of samples: what was sealed in small pieces becomes few large files, pressed harder."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import duckdb

from misstep.core.errors import StorageError
from misstep.store import sample_files
from misstep.store.lake import Lake
from misstep.store.schema import SAMPLES

LEVEL = 9
"""Of zstd: 12 saves a twentieth for three times the time."""

FINAL_BYTES = 32 * 1024 * 1024
"""A file that has grown so large is not merged again: what retention drops lies in whole files but for a few."""

FANOUT = 4
"""Files are merged when together they are so many times the largest of them: each row is written a few times only."""


class File(NamedTuple):
    """A Parquet file of the lake."""

    path: str
    size: int


def pack(lake: Lake, db: duckdb.DuckDBPyConnection, *, all_: bool) -> int:
    """Merge files of samples, oldest first in each; how many there were.

    Args:
        lake: in this collector's turn to write.
        db: its connection.
        all_: whatever their sizes, not only those that it pays to merge now.

    Raises:
        StorageError: rows would not be what they were; nothing changed.
        duckdb.Error: the disk refuses; nothing changed.
    """
    merged = 0
    for run in runs(_files(db), all_=all_):
        _replace(lake, db, [file.path for file in run])
        merged += len(run)
    return merged


def runs(files: list[File], *, all_: bool) -> list[list[File]]:
    """Which files to make one of, among those that may be merged, oldest first."""
    if not all_:
        for first in range(len(files)):
            run = files[first:]
            if sum(file.size for file in run) >= FANOUT * max(file.size for file in run):
                return [run]
        return []
    found: list[list[File]] = [[]]
    for file in files:
        if sum(one.size for one in found[-1]) >= FANOUT * FINAL_BYTES:
            found.append([])
        found[-1].append(file)
    return [run for run in found if run and (len(run) > 1 or not _packed(run[0]))]


def _files(db: duckdb.DuckDBPyConnection) -> list[File]:
    """Oldest first, without those that are large enough."""
    rows = db.execute(
        "SELECT data_file, data_file_size_bytes FROM ducklake_list_files('lake', ?)", [SAMPLES.name]
    ).fetchall()
    return [file for file in (File(path, int(size)) for path, size in rows) if file.size < FINAL_BYTES]


def _replace(lake: Lake, db: duckdb.DuckDBPyConnection, paths: list[str]) -> None:
    # Through the lake: it knows which rows of a file were deleted.
    those = f"FROM lake.{SAMPLES.name} WHERE filename IN (SELECT unnest(?))"
    target, written = sample_files.write(
        db,
        lake.place,
        _PREFIX,
        f"SELECT {SAMPLES.names} {those} ORDER BY {SAMPLES.sort}",
        [paths],
        level=LEVEL,
    )
    db.execute("BEGIN")
    try:
        gone = db.execute(f"DELETE {those}", [paths]).fetchall()[0][0]
        if gone != written:
            raise StorageError(f"{written} samples were read to be merged, but {gone} are in the lake")
        sample_files.add(db, target)
        lake.sync_files()
        db.execute("COMMIT")
    except BaseException:
        # A lost catalog has ended the transaction already, and what it says then hides the reason.
        with contextlib.suppress(duckdb.Error):
            db.execute("ROLLBACK")
        raise


def _packed(file: File) -> bool:
    return file.path.rpartition("/")[2].startswith(f"{_PREFIX}-")


_PREFIX = "packed"
