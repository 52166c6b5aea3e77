"""The lake's tables: made when it is new, changed when an older version made them, refused when a newer one did.

Everything happens in one transaction of the lake, so that a kill in between leaves the old version, whole.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from misstep.core.errors import StorageError
from misstep.store import translation
from misstep.store.schema import TABLES, VERSION, Table

OWN = {
    "meta": "key VARCHAR, value BIGINT",
    "positions": "seq BIGINT, received BIGINT",
    "high_water": "agent VARCHAR, boot VARCHAR, agent_seq BIGINT, received BIGINT",
}
"""Tables of the lake that no query function reads."""

ROW_GROUP = 2_000_000
"""Rows; times and positions become shared dictionaries. Twice as many cost an eighth less and make narrow reads slower."""

LEVEL = 9
"""Of zstd: smaller than 3 at nearly the same cost; 19 takes ten times as long for a twentieth more."""

FILE_BYTES = "128MB"
"""Merging stops here: what retention drops lies in whole files but for one, and that one is soon rewritten."""


def prepare(db: duckdb.DuckDBPyConnection, where: object) -> int:
    """Make or migrate the tables.

    Args:
        db: with the lake attached as ``lake``.
        where: for messages.

    Returns:
        The version that was found; 0 for a new lake.

    Raises:
        StorageError: a newer version wrote it.
        duckdb.Error: the disk refuses; nothing changed.
    """
    known = _columns(db)
    found = _version(db) if "meta" in known else 0
    if found > VERSION:
        raise StorageError(
            f"{where} was written by a newer Misstep (its format is {found}, this one reads up to {VERSION}); "
            "upgrade, or use another data folder"
        )
    if found == VERSION:
        return found
    db.execute("BEGIN")
    try:
        for name, ddl in OWN.items():
            if name not in known:
                db.execute(f"CREATE TABLE lake.{name}({ddl})")
        for table in TABLES:
            _create(db, table, known.get(table.name))
        if found == 1:
            _name_series(db)
        db.execute("INSERT INTO lake.meta VALUES ('version', ?)", [VERSION])
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("CALL lake.set_option('parquet_compression', 'zstd')")
    db.execute(f"CALL lake.set_option('parquet_compression_level', {LEVEL})")
    db.execute(f"CALL lake.set_option('parquet_row_group_size', {ROW_GROUP})")
    db.execute(f"CALL lake.set_option('target_file_size', '{FILE_BYTES}')")
    return found


def _columns(db: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {}
    for table, column in db.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_catalog = 'lake'"
    ).fetchall():
        known.setdefault(table, set()).add(column)
    return known


def _version(db: duckdb.DuckDBPyConnection) -> int:
    row = db.execute("SELECT max(value) FROM lake.meta WHERE key = 'version'").fetchone()
    return int(row[0]) if row and row[0] is not None else VERSION


def _create(db: duckdb.DuckDBPyConnection, table: Table, known: set[str] | None) -> None:
    if known is None:
        db.execute(f"CREATE TABLE lake.{table.name}({table.ddl})")
        db.execute(f"ALTER TABLE lake.{table.name} SET SORTED BY ({table.sort})")
        return
    for name, kind in table.columns:
        if name not in known:
            db.execute(f'ALTER TABLE lake.{table.name} ADD COLUMN "{name}" {kind}')


def _name_series(db: duckdb.DuckDBPyConnection) -> None:
    """Version 1 kept the OpenTelemetry name only."""
    kinds = db.execute("SELECT DISTINCT name, unit, kind FROM lake.series").fetchall()
    named = {key: translation.metric_name(key[0], key[1] or "", key[2]) for key in kinds}
    columns = [[key[place] for key in named] for place in range(3)]
    table = (
        pa.table(
            [*map(pa.array, columns), pa.array(list(named.values()), pa.string())],
            names=["name", "unit", "kind", "prometheus"],
        )
        if named
        else None
    )
    if table is None:
        return
    db.register("named", table)
    try:
        db.execute(
            "UPDATE lake.series SET prometheus = n.prometheus FROM named n WHERE series.name = n.name "
            "AND series.kind = n.kind AND series.unit IS NOT DISTINCT FROM n.unit"
        )
    finally:
        db.unregister("named")
