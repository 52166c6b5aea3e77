"""Two stores of one lake in this process, and one that only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.core.clock import SettableClock
from misstep.core.errors import StorageError, UnavailableError
from misstep.core.settings import StoreSettings
from misstep.store import origin
from misstep.store.request import Batch
from misstep.store.store import Store

Opener = Callable[..., Store]


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def opener(tmp_path: Path, database: str, clock: SettableClock) -> Iterator[Opener]:
    """Opens stores of one lake, by name; those that are open can be asked under their name."""
    stores: dict[str, Store] = {}

    def ask(url: str, after: int) -> dict[str, Any]:
        if url not in stores:
            raise UnavailableError(f"{url} is gone")
        return stores[url].unsealed(after)

    def open_(name: str, *, hot_bytes: int = 1 << 30, data: str = "") -> Store:
        settings = StoreSettings(hot_bytes=hot_bytes, catalog=database, data=data or str(tmp_path / "files"))
        store = Store.open(tmp_path / name, settings, clock=clock, background=False, ask=ask)
        stores[name] = store
        store.announce(name)
        return store

    open_.stores = stores  # type: ignore[attr-defined]
    yield open_
    for store in stores.values():
        store.close()


def line(text: str) -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=5)
    record.body.string_value = text
    return bytes(request.SerializeToString())


def log(store: Store, text: str, agent: str, seq: int) -> int:
    body = line(text)
    return store.append(Batch("logs", body, "", agent, "boot", seq), body).result().seq


def gauge(store: Store, value: float, host: str) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    point = metric.gauge.data_points.add(time_unix_nano=5, as_double=value)
    point.attributes.add(key="host").value.string_value = host
    body = bytes(request.SerializeToString())
    store.append(Batch("metrics", body, "", "", "", -1), body).result()


def lines(store: Store, **how: Any) -> list[str]:
    return sorted(row.body for row in store.view(**how).logs())


def wait(store: Store) -> None:
    """What was asked a moment ago is not asked again; tests do not wait for that."""
    assert store._neighbours is not None
    store._neighbours._asked = -1e9
    store._neighbours._silent.clear()


@pytest.mark.parametrize("hot_bytes", [1 << 30, 0], ids=["in memory", "from the lake"])
def test_each_sees_everything_once_wherever_it_lies(opener: Opener, hot_bytes: int) -> None:
    a, b = opener("a", hot_bytes=hot_bytes), opener("b", hot_bytes=hot_bytes)
    first, second = log(a, "a1", "x", 1), log(b, "b1", "y", 1)
    assert origin.of(first) != origin.of(second), "positions of two collectors never collide"
    gauge(a, 1.0, "one")
    gauge(b, 2.0, "two")
    for step in ("nothing sealed", "a sealed", "both sealed", "merged", "more unsealed"):
        match step:
            case "a sealed":
                assert a.seal()
            case "both sealed":
                assert b.seal()
            case "merged":
                a.maintain()
            case "more unsealed":
                log(a, "a2", "x", 2)
                log(b, "b2", "y", 2)
        expected = ["a1", "a2", "b1", "b2"] if step == "more unsealed" else ["a1", "b1"]
        for store in (a, b):
            wait(store)
            assert lines(store) == expected, step
            view = store.view()
            assert view.missing == ()
            found = {one.labels["host"]: one.values.tolist() for one in view.samples("m")}
            assert found == {"one": [1.0], "two": [2.0]}, step
        assert lines(a, own=True) == [text for text in expected if text[0] == "a"]


def test_an_answer_without_an_owner_is_partial_until_it_is_back(opener: Opener) -> None:
    a, b = opener("a"), opener("b")
    log(a, "a1", "x", 1)
    log(b, "sealed", "y", 1)
    b.seal()
    log(b, "not sealed", "y", 2)
    del opener.stores["b"]  # type: ignore[attr-defined]
    view = a.view()
    assert sorted(row.body for row in view.logs()) == ["a1", "sealed"]
    assert len(view.missing) == 1 and "at b" in view.missing[0]
    assert len(a.missing) == 1
    opener.stores["b"] = b  # type: ignore[attr-defined]
    wait(a)
    assert lines(a) == ["a1", "not sealed", "sealed"]
    assert not a.missing


def test_who_leaves_in_order_seals_and_is_not_missed(opener: Opener) -> None:
    a, b = opener("a"), opener("b")
    log(b, "b1", "y", 1)
    b.close()
    del opener.stores["b"]  # type: ignore[attr-defined]
    assert lines(a) == ["b1"]
    assert a.missing == ()


def test_the_past_is_bounded_for_each_collector(opener: Opener, clock: SettableClock) -> None:
    a, b = opener("a"), opener("b")
    log(a, "a1", "x", 1)
    log(b, "b1", "y", 1)
    b.seal()
    received = max(row.received for row in a.view().logs())
    log(b, "b2", "y", 2)
    log(a, "a2", "x", 2)
    wait(a)
    assert lines(a, until=received + 1)[:2] == ["a1", "b1"]
    clock.jump(10)
    later = clock.now()
    log(a, "a3", "x", 3)
    wait(a)
    assert lines(a, until=later) == ["a1", "a2", "b1", "b2"]
    assert lines(a) == ["a1", "a2", "a3", "b1", "b2"]


def test_a_restart_goes_on_where_it_was_and_copies_are_known(opener: Opener) -> None:
    a = opener("a")
    seq = log(a, "a1", "x", 1)
    a.close()
    again = opener("a")
    body = line("a1")
    assert again.append(Batch("logs", body, "", "x", "boot", 1), body).result().duplicate
    assert origin.of(log(again, "a2", "x", 2)) == origin.of(seq)
    assert lines(again) == ["a1", "a2"]


def test_one_folder_is_one_collector(opener: Opener, tmp_path: Path, database: str) -> None:
    opener("a")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "collector.id").write_text((tmp_path / "a" / "collector.id").read_text())
    with pytest.raises(StorageError, match="copied"):
        opener("copy")


def test_the_files_lie_on_s3(opener: Opener, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    a = opener("a", hot_bytes=0, data="s3://lake/files")
    b = opener("b", hot_bytes=0, data="s3://lake/files")
    for i in range(30):
        log(a, f"a{i:02}", "x", i)
        log(b, f"b{i:02}", "y", i)
        gauge(a, float(i), "one")
        gauge(b, float(i), "two")
    a.seal()
    b.seal()
    before = a.view().ask("SELECT seq, ts, value FROM {samples} ORDER BY ALL")
    b.maintain()
    wait(a)
    assert lines(a) == lines(b) == [f"{c}{i:02}" for c in "ab" for i in range(30)]
    stats = a.stats()
    assert (stats["table_files.logs"], stats["table_files.samples"]) == (1, 1)
    assert a.view().ask("SELECT seq, ts, value FROM {samples} ORDER BY ALL") == before
    assert len(before) == 60
