"""Samples that are kept by series: the same answers while rows arrive, are sealed, are deleted, or do not fit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from misstep.core.clock import SECOND, SettableClock
from misstep.core.settings import StoreSettings
from misstep.store.promql.query import Answer, instant, range_
from misstep.store.store import Store

T = 1_700_000_000 * SECOND
QUERIES = ("m0", "rate(m1[30s])", '{__name__=~"m.*",gpu!="3"}', "last_over_time(m0[20s] offset 10s)")


def opened(folder: Path, **settings: Any) -> Store:
    return Store.open(folder, StoreSettings(**settings), clock=SettableClock(T), background=False)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """A store that keeps what is asked for, and one that does not."""
    stores = opened(tmp_path / "kept"), opened(tmp_path / "plain", recent_bytes=0)
    yield stores
    for store in stores:
        store.close()


def flat(answer: Answer) -> list[tuple[dict[str, str], list[int], list[float]]]:
    return [(row.labels, row.ts.tolist(), row.values.tolist()) for row in answer.rows()]


def same(stores: tuple[Store, Store], until: int | None = None) -> None:
    for text in QUERIES:
        ranged = [
            flat(range_(store.view(until=until), text, T, T + 300 * SECOND, 7 * SECOND)) for store in stores
        ]
        assert ranged[0] == ranged[1], text
        for at in (T + 40 * SECOND, T + 200 * SECOND):
            at_once = [flat(instant(store.view(until=until), text, at)) for store in stores]
            assert at_once[0] == at_once[1], text


def test_rows_that_arrive_between_questions_are_seen(pair: tuple[Store, Store], otlp: Any) -> None:
    rng = random.Random(1)
    for sweep in range(40):
        for metric in range(2):
            points = []
            for gpu in range(4 + sweep // 10):
                late = 15 * SECOND if rng.random() < 0.1 else 0
                if rng.random() < 0.8:
                    points.append((T + sweep * 5 * SECOND - late, rng.random(), {"gpu": str(gpu)}))
            for store in pair:
                otlp.send(store, "metrics", otlp.gauge(f"m{metric}", *points))
        if sweep % 5 == 4:
            same(pair)
        if sweep == 20:
            for store in pair:
                store.seal()
                store._hot.sealed(store.view().position()[0], 0)
    stats = pair[0].stats()
    assert stats["recent_hits"] > 20
    assert stats["recent_misses"] == 0
    assert pair[1].stats()["recent_bytes"] == 0
    same(pair, until=T + 30)


def test_the_past_is_read_as_it_was(pair: tuple[Store, Store], otlp: Any) -> None:
    for store in pair:
        otlp.send(store, "metrics", otlp.gauge("m0", (T, 1.0, {"gpu": "0"})))
        store._clock.advance(10)  # type: ignore[attr-defined]
        assert flat(instant(store.view(), "m0", T))[0][2] == [1.0]
        otlp.send(store, "metrics", otlp.gauge("m0", (T, 2.0, {"gpu": "0"})))
        assert flat(instant(store.view(), "m0", T))[0][2] == [2.0]
        assert flat(instant(store.view(until=T + 5 * SECOND), "m0", T))[0][2] == [1.0]


def test_nothing_is_found_of_what_is_not_there(pair: tuple[Store, Store], otlp: Any) -> None:
    for store in pair:
        for text in ("m0", "rate(m0[1m])", "sum(m0)"):
            assert flat(instant(store.view(), text, T)) == []
            assert flat(range_(store.view(), text, T, T + 9 * SECOND, SECOND)) == []
        otlp.send(store, "metrics", otlp.gauge("m0", (T, 1.0, {"gpu": "0"})))
        for text in ("m0{gpu='1'}", "rate(m0[1m])", "m0 offset 1h"):
            assert flat(range_(store.view(), text, T, T + 9 * SECOND, SECOND)) == []


def test_a_view_does_not_see_what_came_after_it(pair: tuple[Store, Store], otlp: Any) -> None:
    for store in pair:
        otlp.send(store, "metrics", otlp.gauge("m0", (T, 1.0, {"gpu": "0"})))
        before = store.view()
        assert flat(instant(before, "m0", T + SECOND))[0][2] == [1.0]
        otlp.send(store, "metrics", otlp.gauge("m0", (T + SECOND, 2.0, {"gpu": "0"})))
        assert flat(instant(store.view(), "m0", T + SECOND))[0][2] == [2.0]
        assert flat(instant(before, "m0", T + SECOND))[0][2] == [1.0]


def test_an_older_range_is_read_from_the_lake(pair: tuple[Store, Store], otlp: Any) -> None:
    for sweep in range(100):
        body = otlp.gauge("m1", *((T + sweep * 5 * SECOND, sweep * 1.5, {"gpu": str(g)}) for g in range(3)))
        for store in pair:
            otlp.send(store, "metrics", body)
    for start in (400, 300, 320, 10, 0):
        found = [
            flat(range_(store.view(), "rate(m1[1m])", T + start * SECOND, T + 500 * SECOND, 10 * SECOND))
            for store in pair
        ]
        assert found[0] == found[1]
        assert found[0]


def test_what_is_held_is_bounded(tmp_path: Path, otlp: Any) -> None:
    store = opened(tmp_path / "data", recent_bytes=40_000)
    for metric in range(8):
        points = [(T + sweep * SECOND, 1.0, {"gpu": str(g)}) for sweep in range(100) for g in range(5)]
        otlp.send(store, "metrics", otlp.gauge(f"m{metric}", *points))
    for metric in range(8):
        assert len(flat(range_(store.view(), f"m{metric}", T, T + 99 * SECOND, SECOND))) == 5
        assert store.stats()["recent_bytes"] <= 40_000
    assert len(flat(range_(store.view(), '{gpu=~".+"}', T, T + 99 * SECOND, SECOND))) == 40
    assert store.stats()["recent_bytes"] <= 40_000
    assert store.stats()["recent_misses"] == 1
    store.close()


def test_deleted_rows_are_forgotten(tmp_path: Path, otlp: Any) -> None:
    store = opened(tmp_path / "data", samples_days=1.0, hot_bytes=0)
    otlp.send(store, "metrics", otlp.gauge("m0", (T, 1.0, {"gpu": "0"})))
    store.seal()
    assert flat(instant(store.view(), "m0", T))
    store._clock.advance(3 * 86400)  # type: ignore[attr-defined]
    otlp.send(store, "metrics", otlp.gauge("other", (T, 1.0, {"gpu": "0"})))
    store.seal()
    assert flat(instant(store.view(), "m0", T))
    store.maintain()
    assert flat(instant(store.view(), "m0", T)) == []
    store.close()


def test_series_are_learned_before_they_are_asked_for(tmp_path: Path, otlp: Any) -> None:
    store = opened(tmp_path / "data")
    otlp.send(store, "metrics", otlp.gauge("m0", *((T, 1.0, {"gpu": str(gpu)}) for gpu in range(3))))
    assert store._series.size == 0
    store.close()
    again = Store.open(tmp_path / "data", StoreSettings(), clock=SettableClock(T))
    again.close()
    assert again._series.size == 3
