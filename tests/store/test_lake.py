"""Sealing, merging and eviction beside readers, and the lake read by others."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.core.errors import StorageError
from misstep.core.settings import StoreSettings
from misstep.store.request import Batch
from misstep.store.store import Store

Opener = Callable[..., Store]


def lines(store: Store, otlp: Any, first: int, count: int) -> None:
    for i in range(first, first + count):
        otlp.send(store, "logs", otlp.log(("", 5, {}, f"line {i}")))


def test_a_seal_moves_the_journal_into_the_lake(open_store: Opener, otlp: Any, tmp_path: Path) -> None:
    store = open_store()
    assert not store.seal(), "nothing to do"
    otlp.send(store, "logs", otlp.log(*(("", 5, {}, f"line {i}") for i in range(50))))
    assert store.seal()
    assert not store.seal()
    stats = store.stats()
    assert (stats["seals"], stats["journal_segments"]) == (1, 1)
    assert len(list((tmp_path / "data" / "journal").glob("*.sqlite"))) == 1
    assert len(list((tmp_path / "data" / "lake" / "data").rglob("*.parquet"))) >= 1


def test_small_files_are_merged_and_cleared(open_store: Opener, otlp: Any, tmp_path: Path) -> None:
    store = open_store(hot_bytes=0)
    for i in range(4):
        otlp.send(store, "logs", otlp.log(*(("", 5, {}, f"line {i} {j}") for j in range(50))))
        store.seal()

    def files() -> int:
        return len(list((tmp_path / "data" / "lake" / "data" / "main" / "logs").glob("*.parquet")))

    otlp.send(store, "logs", otlp.log(("", 5, {}, "a seal of one row")))
    store.seal()
    assert files() == 4, "one row stays in the catalog"
    store.maintain()
    assert files() == 1
    assert len(store.view().logs()) == 201


def test_evicted_rows_are_read_from_the_lake(open_store: Opener, otlp: Any) -> None:
    store = open_store(hot_bytes=0)
    lines(store, otlp, 0, 3)
    assert store.stats()["hot_bytes"] > 0
    store.seal()
    assert store.stats()["hot_bytes"] == 0
    lines(store, otlp, 3, 3)
    assert [row.body for row in store.view().logs()] == [f"line {i}" for i in range(6)]


def test_another_process_reads_the_lake_while_it_is_written(
    open_store: Opener, otlp: Any, tmp_path: Path
) -> None:
    store = open_store()
    lines(store, otlp, 0, 3)
    store.seal()
    code = (
        "import duckdb, sys; from pathlib import Path; from misstep.store.lake import *;"
        "db = duckdb.connect(config=CONFIG); load_extensions(db);"
        "db.execute(attachment(Path(sys.argv[1]), read_only=True));"
        "print(db.execute('SELECT count(*) FROM lake.logs').fetchone()[0])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data" / "lake")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "3"


def test_a_folder_that_was_moved_is_read_where_it_is(open_store: Opener, otlp: Any, tmp_path: Path) -> None:
    store = open_store(hot_bytes=0)
    lines(store, otlp, 0, 2)
    store.seal()
    store.close()
    (tmp_path / "data").rename(tmp_path / "moved")
    again = open_store(tmp_path / "moved", hot_bytes=0)
    assert [row.body for row in again.view().logs()] == ["line 0", "line 1"]


def test_a_lake_of_a_newer_version_is_refused(open_store: Opener) -> None:
    store = open_store()
    store._lake._db.execute("UPDATE lake.meta SET value = 99 WHERE key = 'version'")
    store.close()
    with pytest.raises(StorageError, match="newer Misstep"):
        open_store()


def test_readers_see_each_row_once_while_it_moves(tmp_path: Path, otlp: Any) -> None:
    """Commits, inserts, seals and evictions on their threads; views at any moment hold a prefix, each row once."""
    settings = StoreSettings(seal_interval=0.3, hot_bytes=0)
    store = Store.open(tmp_path / "data", settings)
    stop = threading.Event()
    problems: list[str] = []
    looks = 0

    def read() -> None:
        nonlocal looks
        while not stop.is_set():
            bodies = [row.body for row in store.view().logs()]
            looks += 1
            if bodies != [f"line {i}" for i in range(len(bodies))]:
                problems.append(f"{len(bodies)} rows, {len(set(bodies))} distinct")

    reader = threading.Thread(target=read)
    reader.start()
    futures = []
    for i in range(120):
        body = otlp.log(("", 5, {}, f"line {i}"))
        futures.append(store.append(Batch("logs", body, "", "a", "b", i), body))
        time.sleep(0.01)
    receipts = [future.result(timeout=60) for future in futures]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if store.ingested(receipts[-1].received + 1) and store.stats().get("seals"):
            break
        time.sleep(0.01)
    stop.set()
    reader.join()
    assert not problems
    assert looks > 0
    assert [row.body for row in store.view().logs()] == [f"line {i}" for i in range(120)]
    assert store.stats()["seals"] >= 1
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.append(Batch("logs", b""), b"").result()


def test_requests_that_wait_share_a_commit(tmp_path: Path, otlp: Any) -> None:
    store = Store.open(tmp_path / "data", StoreSettings())
    body = otlp.log(("", 5, {}, "x"))
    futures = [store.append(Batch("logs", body, "", "a", "b", seq), body) for seq in (1, 2, 2, 3, 1)]
    receipts = [future.result(timeout=60) for future in futures]
    assert [receipt.duplicate for receipt in receipts] == [False, False, True, False, True]
    assert [receipt.seq for receipt in receipts if not receipt.duplicate] == [1, 2, 3]
    store.close()
    again = Store.open(tmp_path / "data", StoreSettings(), background=False)
    assert len(again.view().logs()) == 3
    again.close()
