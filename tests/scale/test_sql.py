"""SQL of users over a shared lake: both collectors' rows, sealed and unsealed, each once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from misstep.core.errors import UnavailableError
from misstep.core.settings import StoreSettings
from misstep.store.place import Place
from misstep.store.request import Batch
from misstep.store.sandbox.runner import Bounds, Run
from misstep.store.store import Store


def send(store: Store, *bodies: str) -> None:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for text in bodies:
        scope.log_records.add(time_unix_nano=5).body.string_value = text
    body = bytes(request.SerializeToString())
    store.append(Batch("logs", body, "", "a", "b", -1), body).result(timeout=60)


@pytest.fixture(params=["folder", "s3"])
def data(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the lake's files lie."""
    if request.param == "folder":
        return str(tmp_path / "files")
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return f"s3://lake/{tmp_path.name}"


@pytest.fixture
def stores(tmp_path: Path, database: str, data: str) -> Iterator[dict[str, Store]]:
    """Two collectors' stores of one lake."""
    opened: dict[str, Store] = {}

    def ask(url: str, after: int) -> dict[str, Any]:
        if url not in opened:
            raise UnavailableError(f"{url} is gone")
        return opened[url].unsealed(after)

    settings = StoreSettings(catalog=database, data=data)
    for name in ("one", "two"):
        opened[name] = Store.open(tmp_path / name, settings, background=False, ask=ask)
        opened[name].announce(name)
    yield opened
    for store in opened.values():
        store.close()


def test_rows_of_all_collectors_are_one_table(
    stores: dict[str, Store], tmp_path: Path, database: str, data: str
) -> None:
    for name, store in stores.items():
        send(store, *(f"{name} sealed {i}" for i in range(50)))
        store.seal()
        send(store, f"{name} hot")
    place = Place(tmp_path / "one" / "lake", database, data)
    run = Run(place, Bounds(seconds=30))
    answer = json.loads(run.run(stores["one"].view(), "SELECT count(*), count(DISTINCT body) FROM logs", {}))
    assert answer["rows"] == [[102, 102]]
