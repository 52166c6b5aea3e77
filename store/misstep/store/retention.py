"""How much of each table is kept: by age of receipt, by bytes of the table, and by bytes of the whole lake.

A cut is a position per origin: what lies at or before it goes. Cuts fall on multiples of a thirtieth of the age, so that
whole files go and little is rewritten. What rows that stay refer to stays too: the journal positions, the high-water
marks, the requests that tell when a row was received, the definitions of series and resources.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import duckdb

from misstep.core.clock import SECOND
from misstep.core.settings import StoreSettings
from misstep.store.origin import BITS, Origin
from misstep.store.place import Place

DAY = 86_400 * SECOND
STEPS = 30
"""Parts of an age in which it is cut."""

MARKS_DAYS = 90
"""An agent's spool of which nothing was heard for so long is forgotten; what it still held was dropped after a day."""

_SIGNAL = {"samples": "metrics", "exemplars": "metrics", "logs": "logs", "spans": "traces"}
_FIRST_TO_GO = ("samples", "spans", "logs")
"""When the disk is too small: what is most goes first, events last."""

_TO_PRUNE = "prune"
"""Key in table `meta` for each origin of which rows went since its definitions were looked through: that reads much."""

Cuts = dict[str, dict[int, int]]
"""For each table and origin the last position that goes."""


def ages(settings: StoreSettings) -> dict[str, float]:
    """Days for which each table's rows are kept; 0 for ever."""
    return {
        "samples": settings.samples_days,
        "exemplars": settings.samples_days,
        "logs": settings.logs_days,
        "spans": settings.spans_days,
    }


def sizes(settings: StoreSettings) -> dict[str, int]:
    """Bytes that each table may take; 0 for any number."""
    return {"samples": settings.samples_bytes, "logs": settings.logs_bytes, "spans": settings.spans_bytes}


def limit(place: Place, settings: StoreSettings) -> int:
    """Bytes that the lake may take; 0 for any number."""
    if settings.lake_bytes or place.shared:
        return settings.lake_bytes
    return int(shutil.disk_usage(place.files).total * settings.lake_share)


def cuts(db: duckdb.DuckDBPyConnection, settings: StoreSettings, now: int, whole: int) -> Cuts:
    """What is to go.

    Args:
        db: with the lake attached.
        settings: ages and sizes.
        now: Unix nanoseconds.
        whole: bytes that the lake may take; 0 for any number.
    """
    found: Cuts = {}
    for table, days in ages(settings).items():
        step = int(days * DAY) // STEPS
        if step:
            _raise(found, table, _received_before(db, (now - int(days * DAY)) // step * step))
    bytes_of = _bytes(db)
    for table, allowed in sizes(settings).items():
        if allowed and bytes_of.get(table, 0) > allowed:
            _raise(found, table, _oldest_share(db, table, 1 - allowed / bytes_of[table]))
    over = sum(bytes_of.values()) - whole
    for table in _FIRST_TO_GO:
        size = bytes_of.get(table, 0)
        if whole and over > 0 and size:
            # A tenth more than must be, or every look would rewrite a file.
            share = min(1.0, (over + whole / 10) / size)
            _raise(found, table, _oldest_share(db, table, share))
            over -= int(size * share)
    return found


def apply(db: duckdb.DuckDBPyConnection, cuts: Cuts) -> dict[str, int]:
    """Delete; returns how many rows of each table went.

    Raises:
        duckdb.Error: the disk refuses; tables before that one are cut.
    """
    gone: dict[str, int] = {}
    for table, ends in cuts.items():
        number = _delete(db, table, ends)
        if number:
            gone[table] = number
    ends = _requests_to_go(db, cuts)
    number = _delete(db, "requests", ends) if ends else 0
    if gone:
        for origin in {origin for table in gone for origin in cuts[table]}:
            db.execute("INSERT INTO lake.meta VALUES (?, ?)", [_TO_PRUNE, origin])
    return gone | ({"requests": number} if number else {})


def tidy(db: duckdb.DuckDBPyConnection, now: int) -> None:
    """Keep one position of each origin and one mark of each spool."""
    db.execute(
        f"DELETE FROM lake.positions WHERE seq < (SELECT max(p.seq) FROM lake.positions p "
        f"WHERE p.seq >> {BITS} = positions.seq >> {BITS})"
    )
    rows, newest = db.execute(
        "SELECT count(*), count(DISTINCT (agent, boot)) FROM lake.high_water"
    ).fetchall()[0]
    if rows <= 2 * newest + 1000:
        return
    db.execute("BEGIN")
    try:
        db.execute(
            "CREATE OR REPLACE TEMP TABLE kept_marks AS SELECT agent, boot, max(agent_seq) AS agent_seq, "
            "max(received) AS received FROM lake.high_water GROUP BY ALL HAVING max(received) > ?",
            [now - MARKS_DAYS * DAY],
        )
        db.execute("DELETE FROM lake.high_water")
        db.execute("INSERT INTO lake.high_water SELECT * FROM kept_marks")
        db.execute("DROP TABLE kept_marks")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def prune(db: duckdb.DuckDBPyConnection, origin: Origin) -> dict[str, int]:
    """Delete definitions of an origin that no sealed row refers to; what is unsealed defines what it needs anew."""
    due = db.execute(
        "SELECT count(*) FROM lake.meta WHERE key = ? AND value = ?", [_TO_PRUNE, origin.number]
    ).fetchall()
    if not due[0][0]:
        return {}
    gone = {}
    for table, unused in (("series", _UNUSED_SERIES), ("resources", _UNUSED_RESOURCES)):
        rows = db.execute(f"DELETE FROM lake.{table} WHERE {origin.holds()} AND {unused}").fetchall()
        gone[table] = int(rows[0][0])
    db.execute("DELETE FROM lake.meta WHERE key = ? AND value = ?", [_TO_PRUNE, origin.number])
    return gone


_UNUSED_SERIES = (
    "NOT EXISTS (SELECT 1 FROM lake.samples s WHERE s.metric = series.metric AND s.series_id = series.series_id) "
    "AND NOT EXISTS (SELECT 1 FROM lake.exemplars e WHERE e.series_id = series.series_id)"
)
_UNUSED_RESOURCES = " AND ".join(
    f"resource NOT IN (SELECT resource FROM lake.{table} WHERE resource IS NOT NULL)"
    for table in ("series", "logs", "spans")
)


def _received_before(db: duckdb.DuckDBPyConnection, time: int) -> dict[int, int]:
    rows = db.execute(
        f"SELECT seq >> {BITS}, max(seq) FROM lake.requests WHERE received < ? GROUP BY 1", [time]
    ).fetchall()
    return {int(origin): int(seq) for origin, seq in rows}


def _oldest_share(db: duckdb.DuckDBPyConnection, table: str, share: float) -> dict[int, int]:
    """Cuts so that about this share of a table goes, the oldest by receipt, measured by its requests' bytes."""
    rows = db.execute(
        f"WITH own AS (SELECT seq, received, bytes FROM lake.requests WHERE signal = ? AND "
        f"seq >= coalesce((SELECT min(seq) FROM lake.{table} t WHERE t.seq >> {BITS} = requests.seq >> {BITS}), 0)), "
        "summed AS (SELECT seq, sum(bytes) OVER (ORDER BY received, seq) AS upto, sum(bytes) OVER () AS whole FROM own) "
        f"SELECT seq >> {BITS}, max(seq) FROM summed WHERE upto <= ? * whole GROUP BY 1",
        [_SIGNAL[table], share],
    ).fetchall()
    return {int(origin): int(seq) for origin, seq in rows}


def _requests_to_go(db: duckdb.DuckDBPyConnection, cuts: Cuts) -> dict[int, int]:
    """Requests go once all that they brought has gone: with the least cut of all tables that are not empty."""
    if not cuts:
        return {}
    firsts: dict[int, int] = {}
    for table in _SIGNAL:
        for origin, seq in db.execute(
            f"SELECT seq >> {BITS}, min(seq) FROM lake.{table} GROUP BY 1"
        ).fetchall():
            firsts[int(origin)] = min(firsts.get(int(origin), int(seq)), int(seq))
    ends: dict[int, int] = {}
    for own in cuts.values():
        for origin, seq in own.items():
            ends[origin] = max(ends.get(origin, seq), seq)
    return {origin: min(seq, firsts.get(origin, seq + 1) - 1) for origin, seq in ends.items()}


def _delete(db: duckdb.DuckDBPyConnection, table: str, ends: dict[int, int]) -> int:
    if not ends:
        return 0
    condition, parameters = _within(ends)
    return int(db.execute(f"DELETE FROM lake.{table} WHERE {condition}", parameters).fetchall()[0][0])


def _within(ends: dict[int, int]) -> tuple[str, Sequence[int]]:
    parts = [f"(seq > {Origin(origin).base} AND seq <= ?)" for origin in ends]
    return " OR ".join(parts), list(ends.values())


def _bytes(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    rows = db.execute("SELECT table_name, file_size_bytes FROM ducklake_table_info('lake')").fetchall()
    return {name: int(size) for name, size in rows}


def _raise(cuts: Cuts, table: str, ends: dict[int, int]) -> None:
    own = cuts.setdefault(table, {})
    for origin, seq in ends.items():
        own[origin] = max(own.get(origin, seq), seq)
