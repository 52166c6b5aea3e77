"""Merging of samples: what is stored stays what it is, in fewer bytes and few rewrites."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from misstep.core.errors import StorageError
from misstep.store import packing
from misstep.store.packing import FANOUT, FINAL_BYTES, File, runs
from misstep.store.store import Store

Opener = Callable[..., Store]
SAMPLES = "SELECT metric, series_id, ts, value, seq FROM {samples} ORDER BY ALL"
MIB = 1024 * 1024


def fill(store: Store, otlp: Any, seals: int, *, first: int = 0) -> None:
    """So many seals of 40 series, each large enough for a file."""
    for second in range(first, first + seals):
        points = [(second + 1, second * i / 10, {"gpu": str(i)}) for i in range(40)]
        otlp.send(store, "metrics", otlp.gauge("m", *points))
        store.seal()


def files(store: Store) -> list[str]:
    rows = store._lake._db.execute("SELECT data_file FROM ducklake_list_files('lake', 'samples')").fetchall()
    return [Path(path).name for (path,) in rows]


def test_merged_samples_are_those_that_were_sealed(open_store: Opener, otlp: Any) -> None:
    store = open_store(hot_bytes=0)
    fill(store, otlp, 7)
    assert len(files(store)) == 7
    before = store.view().ask(SAMPLES)
    store.maintain()
    (only,) = files(store)
    assert store.view().ask(SAMPLES) == before
    assert len(before) == 280
    store.maintain()
    assert files(store) == [only], "what is merged is left alone"
    fill(store, otlp, 1, first=7)
    store.maintain()
    assert len(files(store)) == 1
    assert store.view().ask("SELECT count(*) FROM {samples}") == [(320,)]
    store.close()
    assert open_store(hot_bytes=0).view().ask("SELECT count(*) FROM {samples}") == [(320,)]


def test_merged_files_are_plain_parquet_and_what_they_replace_goes(
    open_store: Opener, otlp: Any, tmp_path: Path
) -> None:
    store = open_store(hot_bytes=0)
    fill(store, otlp, 3)
    before = store.view().ask(SAMPLES)
    store.maintain()
    found = list((tmp_path / "data" / "lake" / "data" / "main" / "samples").iterdir())
    assert [path.name for path in found] == files(store)
    assert duckdb.sql(f"SELECT * FROM '{found[0]}' ORDER BY ALL").fetchall() == before
    filters = duckdb.sql(f"SELECT count(bloom_filter_offset) FROM parquet_metadata('{found[0]}')").fetchall()
    assert filters == [(0,)]


def test_every_eighth_seal_merges(open_store: Opener, otlp: Any) -> None:
    store = open_store(hot_bytes=0)
    fill(store, otlp, 16)
    assert len(files(store)) <= 2
    assert store.view().ask("SELECT count(*), count(DISTINCT seq) FROM {samples}") == [(640, 16)]


def test_rows_that_were_deleted_do_not_come_back(open_store: Opener, otlp: Any) -> None:
    store = open_store(hot_bytes=0)
    fill(store, otlp, 3)
    store._lake._db.execute("DELETE FROM lake.samples WHERE ts = 2 AND value < 1")
    before = store.view().ask(SAMPLES)
    assert len(before) == 110
    with contextlib.suppress(StorageError):
        packing.pack(store._lake, store._lake._db, all_=True)
    assert store.view().ask(SAMPLES) == before
    store.maintain()
    assert store.view().ask(SAMPLES) == before


def test_files_are_merged_when_it_pays() -> None:
    def sizes(*sizes: int) -> list[list[int]]:
        return [[one.size for one in run] for run in runs([File("", size) for size in sizes], all_=False)]

    assert sizes() == []
    assert sizes(1, 1, 1) == []
    assert sizes(1, 1, 1, 1) == [[1, 1, 1, 1]]
    assert sizes(8, 1, 1, 1, 1) == [[1, 1, 1, 1]], "a large file is not written again for a little"
    assert sizes(8, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1) == [[8, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1]]


def test_a_row_is_written_a_few_times_however_long_it_goes_on() -> None:
    seal = 200 * 1024
    stored: list[File] = []
    written = 0
    for number in range(1, 4001):
        stored.append(File("", seal))
        written += seal
        if number % 8 == 0:
            small = [file for file in stored if file.size < FINAL_BYTES]
            for run in runs(small, all_=False):
                size = sum(file.size for file in run)
                stored = [*stored[: len(stored) - len(run)], File("", size)]
                written += size
    total = sum(file.size for file in stored)
    assert total == 4000 * seal
    assert written <= 5 * total
    assert len([file for file in stored if file.size < FINAL_BYTES]) <= 12
    assert max(file.size for file in stored) <= FANOUT * FINAL_BYTES


def test_all_are_merged_when_all_shall_be() -> None:
    files = [File("a", 30 * MIB)] * 10
    assert [len(run) for run in runs(files, all_=True)] == [5, 5]
    assert runs([File("lake/packed-1.parquet", 1)], all_=True) == []
    assert runs([File("lake/ducklake-1.parquet", 1)], all_=True) == [[File("lake/ducklake-1.parquet", 1)]]
