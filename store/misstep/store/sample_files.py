"""Files of samples, which are nearly all of a lake, in as few bytes as plain Parquet allows.

DuckLake writes with dictionaries and Bloom filters wherever it can, and neither can be told not to. Times and positions
repeat from one series of a node to the next, which zstd sees in plain columns and not in the packed indices of a
dictionary; the filters are an eighth of the file, nearly half of the time, and answer nothing that the order of rows does
not. So files are written here, and become the table's by DuckLake's own call.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import duckdb

from misstep.store.place import Place
from misstep.store.schema import SAMPLES

ROW_GROUP = 250_000
"""Rows: half as many cost 8 % more bytes, twice as many 7 %, for then fewer columns have few distinct values."""

DICTIONARY = 4096
"""Distinct values up to which a column of a row group gets a dictionary: metrics, series and coarse values."""


def write(
    db: duckdb.DuckDBPyConnection,
    place: Place,
    prefix: str,
    query: str,
    parameters: list[object] | None = None,
    *,
    level: int,
) -> tuple[str, int]:
    """Write what a query finds into a new file of the table; its path and number of rows.

    Args:
        db: with the lake attached.
        place: of the lake.
        prefix: of the file's name.
        query: of the table's columns, in its order.
        parameters: of the query.
        level: of zstd.

    Raises:
        duckdb.Error, OSError: the disk refuses.
    """
    folder = f"{place.data_path}main/{SAMPLES.name}"
    if not place.remote:
        Path(folder).mkdir(parents=True, exist_ok=True)
    target = f"{folder}/{prefix}-{uuid.uuid4()}.parquet"
    quoted = target.replace("'", "''")
    written = db.execute(
        f"COPY ({query}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {level}, "
        f"ROW_GROUP_SIZE {ROW_GROUP}, DICTIONARY_SIZE_LIMIT {DICTIONARY}, WRITE_BLOOM_FILTER false)",
        parameters or [],
    ).fetchall()
    return target, int(written[0][0])


def add(db: duckdb.DuckDBPyConnection, path: str) -> None:
    """Make a file part of the table, in the transaction that is open."""
    db.execute("CALL ducklake_add_data_files('lake', ?, ?)", [SAMPLES.name, path]).fetchall()
