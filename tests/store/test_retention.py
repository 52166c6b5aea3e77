"""What is kept and what goes: by age, by size of a table, by size of the whole, and what must stay for the rest's sake."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.core.clock import SettableClock
from misstep.core.settings import StoreSettings
from misstep.store import retention
from misstep.store.store import Store

DAY = 86_400


@pytest.fixture
def fill(tmp_path: Path, clock: SettableClock, otlp: Any) -> Iterator[Callable[..., Store]]:
    """Opens a store with these limits and gives it a day's request of each kind for ten days, each sealed."""

    def filled(days: int = 10, points: int = 1, **limits: float) -> Store:
        store = open_again(**limits)
        chance = random.Random(1)
        for day in range(days):
            values = [(day * 10_000 + i, chance.random(), {"series": f"of day {day}"}) for i in range(points)]
            otlp.send(store, "metrics", otlp.gauge("m", *values), agent="a", seq=2 * day)
            otlp.send(store, "logs", otlp.log(("", day, {}, f"line {day}")), agent="a", seq=2 * day + 1)
            if day % 4 == 3:
                store.seal()
            clock.jump(DAY)
        store.seal()
        return store

    def open_again(**limits: float) -> Store:
        settings = StoreSettings(hot_bytes=0, **limits)  # type: ignore[arg-type]
        store = Store.open(tmp_path / "data", settings, clock=clock, background=False)
        opened.append(store)
        return store

    opened: list[Store] = []
    filled.again = open_again  # type: ignore[attr-defined]
    yield filled
    for store in opened:
        store.close()


def kept(store: Store) -> tuple[list[int], list[int]]:
    """Days of which there are samples, and of which there are log lines."""
    view = store.view()
    samples = sorted({int(ts) // 10_000 for one in view.samples("m") for ts in one.ts})
    return samples, [int(row.body.removeprefix("line ")) for row in view.logs()]


def test_each_table_is_cut_at_its_age(fill: Callable[..., Store]) -> None:
    store = fill(samples_days=3.0, logs_days=6.0)
    store.maintain()
    samples, logs = kept(store)
    assert samples == [7, 8, 9]
    assert logs == [4, 5, 6, 7, 8, 9]
    stats = store.stats()
    assert (stats["retired_samples"], stats["retired_logs"]) == (7, 4)
    assert stats["retired_requests"] == 9, "requests stay as long as a row that they brought"
    assert all(row.received for row in store.view().logs())


def test_nothing_goes_where_everything_is_to_be_kept(fill: Callable[..., Store]) -> None:
    store = fill(days=4, samples_days=0, logs_days=0)
    store.maintain()
    assert kept(store) == (list(range(4)), list(range(4)))


def test_a_table_is_cut_to_its_bytes_oldest_first(fill: Callable[..., Store]) -> None:
    store = fill(points=3000)
    before = store.stats()["table_bytes.samples"]
    store.close()
    again = fill.again(samples_bytes=int(before * 0.55))  # type: ignore[attr-defined]
    again.maintain()
    samples, logs = kept(again)
    assert samples == list(range(10 - len(samples), 10))
    assert 4 <= len(samples) <= 6
    assert logs == list(range(10))
    assert again.stats()["table_bytes.samples"] <= before * 0.62, "the files themselves have shrunk"


def test_beyond_the_whole_size_samples_go_before_events(fill: Callable[..., Store]) -> None:
    store = fill(points=3000)
    before = sum(v for k, v in store.stats().items() if k.startswith("table_bytes."))
    store.close()
    again = fill.again(lake_bytes=int(before * 0.7))  # type: ignore[attr-defined]
    again.maintain()
    samples, logs = kept(again)
    assert samples == list(range(10 - len(samples), 10))
    assert 4 <= len(samples) <= 7
    assert logs == list(range(10))
    assert sum(v for k, v in again.stats().items() if k.startswith("table_bytes.")) <= before * 0.72


def test_positions_marks_and_definitions_outlive_what_is_cut(fill: Callable[..., Store], otlp: Any) -> None:
    store = fill(samples_days=3.0, logs_days=3.0)
    position = store.stats()["position"]
    store.maintain()
    store.close()
    again = fill.again(samples_days=3.0, logs_days=3.0)  # type: ignore[attr-defined]
    assert again.stats()["position"] == position
    assert {row[2]["series"] for row in again.view().series()} == {"of day 7", "of day 8", "of day 9"}
    assert otlp.send(again, "logs", otlp.log(("", 5, {}, "late")), agent="a", seq=3).duplicate
    # A series whose definition went with its samples is defined anew when it returns.
    otlp.send(again, "metrics", otlp.gauge("m", (99_000, 1.0, {"series": "of day 0"})), agent="a", seq=50)
    found = {one.labels["series"]: one.ts.tolist() for one in again.view().samples("m")}
    assert found["of day 0"] == [99_000]
    assert all(row.resource == {"host.name": "h1"} for row in again.view().logs())


def test_the_cut_is_made_beside_seals_and_files_go(fill: Callable[..., Store], tmp_path: Path) -> None:
    """Without being asked: every eighth seal merges, and looks for what is too old."""
    store = fill(days=32, samples_days=2.0)
    assert store.stats()["retired_samples"] >= 8
    files = list((tmp_path / "data" / "lake" / "data" / "main" / "samples").glob("*.parquet"))
    store.maintain()
    left = list((tmp_path / "data" / "lake" / "data" / "main" / "samples").glob("*.parquet"))
    assert len(left) <= 1, files


def test_a_file_that_nothing_names_is_deleted_when_it_is_old(
    fill: Callable[..., Store], tmp_path: Path
) -> None:
    store = fill(days=2)
    folder = tmp_path / "data" / "lake" / "data" / "main" / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    young, old = folder / "young.parquet", folder / "old.parquet"
    for path in (young, old):
        path.write_bytes(b"left by a kill")
    past = time.time() - 48 * 3600
    os.utime(old, (past, past))
    store.maintain()
    assert young.exists()
    assert not old.exists()


def test_sizes_are_told(fill: Callable[..., Store]) -> None:
    stats = fill(days=2).stats()
    assert stats["table_bytes.samples"] >= 0
    assert 0 < stats["memory_bytes"] < stats["memory_limit_bytes"]
    assert stats["disk_free_bytes"] > 1 << 20


def test_definitions_are_looked_through_only_after_rows_went(fill: Callable[..., Store]) -> None:
    store = fill(days=4, samples_days=0, logs_days=0)
    assert retention.prune(store._lake._db, store._lake.origin) == {}
    store.close()
    again = fill.again(samples_days=1.0)  # type: ignore[attr-defined]
    again.maintain()
    assert retention.prune(again._lake._db, again._lake.origin)["series"] >= 2
    assert retention.prune(again._lake._db, again._lake.origin) == {}
