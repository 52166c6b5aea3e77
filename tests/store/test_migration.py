"""A data folder that version 1 wrote, captured as it lay when its collector was killed, opened by this version."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.core.errors import StorageError
from misstep.store.schema import VERSION
from misstep.store.store import Store

TAPE = Path(__file__).parents[1] / "data" / "store" / "version-1.tar.xz"
Opener = Callable[..., Store]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(TAPE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "version-1"


def test_version_1_opens_whole_and_goes_on(folder: Path, open_store: Opener, otlp: Any) -> None:
    store = open_store(folder)
    assert [row.body for row in store.view().logs()] == ["sealed", "unsealed"]
    assert store.incidents()[0]["id"] == "i1"
    values = {one.name: one.values.tolist() for one in store.view().samples("http.server.duration")}
    assert values == {"http.server.duration": [1.0, 2.0, 3.0, 4.0]}
    assert store.view().samples("requests")[0].values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert store.view().samples("latency.count") == [], "what version 1 refused stays refused"
    body = otlp.log(("", 5, {}, "again"))
    assert otlp.send(store, "logs", body, agent="agent", boot="boot", seq=6).duplicate
    assert not otlp.send(store, "logs", body, agent="agent", boot="boot", seq=7).duplicate
    assert store.seal()
    store.maintain()
    store.close()
    again = open_store(folder, hot_bytes=0)
    assert [row.body for row in again.view().logs()] == ["sealed", "unsealed", "again"]


def test_its_series_get_their_prometheus_names(folder: Path, open_store: Opener) -> None:
    store = open_store(folder)
    rows = store.view().ask("SELECT DISTINCT name, prometheus FROM {series} ORDER BY name")
    assert rows == [
        ("http.server.duration", "http_server_duration_milliseconds"),
        ("requests", "requests_total"),
    ]


def test_the_migration_is_told_by_the_lake_and_done_once(folder: Path, open_store: Opener) -> None:
    for _ in range(2):
        store = open_store(folder)
        found = store._lake._db.execute(
            "SELECT value FROM lake.meta WHERE key = 'version' ORDER BY 1"
        ).fetchall()
        assert found == [(1,), (VERSION,)]
        store.close()


def test_a_newer_version_is_refused_with_its_number(folder: Path, open_store: Opener) -> None:
    store = open_store(folder)
    store._lake._db.execute("INSERT INTO lake.meta VALUES ('version', 99)")
    store.close()
    with pytest.raises(StorageError, match=r"newer Misstep .its format is 99"):
        open_store(folder)
