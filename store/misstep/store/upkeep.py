"""What keeps the lake small: merging, retention, and the deletion of what nobody reads any more.

It is done in the thread that seals and in this collector's turn to write, by DuckLake's own calls but for the samples,
whose files are written by `packing`.
"""

from __future__ import annotations

from collections import Counter

import duckdb

from misstep.core.clock import SECOND, Clock
from misstep.core.settings import StoreSettings
from misstep.store import packing, retention
from misstep.store.lake import Lake
from misstep.store.migration import OWN
from misstep.store.schema import SAMPLES, TABLES

MERGE_EVERY = 8
"""Seals after which their small files are merged."""

RETAIN_SECONDS = 3600
"""Between two looks for what is too old or too much."""

READ_MINUTES = 10
"""What was replaced is kept for so long: the longest read must end within it."""

ORPHAN_HOURS = 24
"""A file that no table names is deleted at this age; a younger one may belong to a seal that is being made."""

_MERGED_BY_DUCKLAKE = (*OWN, *(table.name for table in TABLES if table is not SAMPLES))


class Upkeep:
    """One thread at a time, the one that seals."""

    def __init__(self, lake: Lake, settings: StoreSettings, clock: Clock) -> None:
        self._lake, self._settings, self._clock = lake, settings, clock
        self._seals = 0
        self._retained = 0
        self.counts: Counter[str] = Counter()

    def after_seal(self) -> bool:
        """Do what is due; says whether anything was.

        Raises:
            StorageError: the disk refuses; what was not done is done at a later call.
        """
        self._seals += 1
        if self._seals % MERGE_EVERY:
            return False
        if self._clock.now() - self._retained >= RETAIN_SECONDS * SECOND:
            self.retain()
        self.merge(READ_MINUTES, all_=False)
        return True

    def merge(self, minutes: int = 0, *, all_: bool = True) -> None:
        """Merge small files and delete what they replaced before so many minutes.

        Args:
            minutes: that what was replaced is kept.
            all_: samples too of which it pays to wait for more.

        Raises:
            StorageError: the disk refuses.
        """
        with self._lake.writing("merged") as db:
            # Seals of a few rows stay in the catalog until here.
            _call(db, "ducklake_flush_inlined_data('lake')")
            for name in _MERGED_BY_DUCKLAKE:
                _call(db, f"ducklake_merge_adjacent_files('lake', '{name}')")
            if packing.pack(self._lake, db, all_=all_):
                # What was replaced and held a few rows only is marked as deleted in the catalog, row by row.
                _call(db, "ducklake_flush_inlined_data('lake')")
                _call(db, f"ducklake_rewrite_data_files('lake', '{SAMPLES.name}', delete_threshold => 1.0)")
            self._delete(db, minutes)
        self.counts["merges"] += 1

    def retain(self) -> None:
        """Delete what is older or more than the settings allow.

        Raises:
            StorageError: the disk refuses.
        """
        now = self._clock.now()
        with self._lake.writing("cut to its limits") as db:
            # Of rows that are still in the catalog DuckLake 1.0 cannot delete some: it asks text whether it is NaN.
            _call(db, "ducklake_flush_inlined_data('lake')")
            cuts = retention.cuts(db, self._settings, now, retention.limit(self._lake.place, self._settings))
            gone = retention.apply(db, cuts)
            retention.tidy(db, now)
            if gone:
                # A file that lost most of its rows is written anew; one that lost all is gone already.
                for name in cuts:
                    _call(db, f"ducklake_rewrite_data_files('lake', '{name}', delete_threshold => 0.3)")
        self._retained = now
        for name, number in gone.items():
            self.counts[f"retired_{name}"] += number

    def _delete(self, db: duckdb.DuckDBPyConnection, minutes: int) -> None:
        before = f"older_than => CAST(now() AS TIMESTAMP) - INTERVAL '{minutes} minutes'"
        _call(db, f"ducklake_expire_snapshots('lake', {before})")
        _call(db, f"ducklake_cleanup_old_files('lake', {before})")
        orphans = f"older_than => CAST(now() AS TIMESTAMP) - INTERVAL '{ORPHAN_HOURS} hours'"
        self.counts["orphans_deleted"] += _call(db, f"ducklake_delete_orphaned_files('lake', {orphans})")
        self._lake.sync_files()


def prune(lake: Lake) -> dict[str, int]:
    """Delete definitions that nothing refers to any more; how many rows of each table.

    Only while a store opens, before the ingest learns which definitions there are: it never gives one twice.

    Raises:
        StorageError: the disk refuses.
    """
    with lake.writing("pruned") as db:
        return retention.prune(db, lake.origin)


def _call(db: duckdb.DuckDBPyConnection, call: str) -> int:
    # fetchall: an answer that is not read to its end is not committed.
    return int(db.execute(f"SELECT count(*) FROM {call}").fetchall()[0][0])
