"""The store as a source of samples: the same answers as from memory, whatever way the samples came."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

sys.path.insert(0, str(Path(__file__).parents[2]))

from misstep.core.clock import SettableClock
from misstep.core.settings import StoreSettings
from misstep.store import selection
from misstep.store.promql.errors import QueryError
from misstep.store.promql.evaluate import Options
from misstep.store.promql.labels import Labels
from misstep.store.promql.query import Answer, instant, range_
from misstep.store.promql.source import STALE, Memory, Source
from misstep.store.request import Batch
from misstep.store.store import Store

SECOND = 10**9
T = 1_700_000_000 * SECOND
_STALE = np.array([STALE], np.uint64).view(np.float64)[0]
Samples = dict[tuple[str, str], dict[int, float]]


def drawn(seed: int, series: int) -> list[list[tuple[str, str, int, float]]]:
    """Requests of points (metric, gpu, ts, value): some late, some twice, some stale, one series dying early."""
    rng = random.Random(seed)
    requests = []
    for sweep in range(60):
        points = []
        for number in range(series):
            if (number == 0 and sweep > 20) or rng.random() < 0.1:
                continue
            ts = T + sweep * 5 * SECOND + rng.randrange(SECOND) - (12 * SECOND if rng.random() < 0.03 else 0)
            value = _STALE if rng.random() < 0.02 else round(rng.random() * 100, 2)
            points.append((f"m.{number % 3}", str(number), ts, float(value)))
        requests.append(points)
    return requests


def encoded(points: list[tuple[str, str, int, float]]) -> bytes:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    for name, gpu, ts, value in points:
        point = scope.metrics.add(name=name).gauge.data_points.add(time_unix_nano=ts)
        if np.isnan(value):
            point.flags = 1
        else:
            point.as_double = value
        point.attributes.add(key="hw.gpu").value.string_value = gpu
    return bytes(request.SerializeToString())


def in_memory(requests: list[list[tuple[str, str, int, float]]]) -> Memory:
    known: Samples = {}
    for points in requests:
        for name, gpu, ts, value in points:
            known.setdefault((name, gpu), {})[ts] = value
    labels = Labels.of([{"__name__": name.replace(".", "_"), "hw_gpu": gpu} for name, gpu in known])
    flat = [(row, ts, v) for row, own in enumerate(known.values()) for ts, v in sorted(own.items())]
    columns = np.array([f[0] for f in flat], np.int32), np.array([f[1] for f in flat], np.int64)
    return Memory(labels, *columns, np.array([f[2] for f in flat]))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "data", StoreSettings(), clock=SettableClock(T), background=False)
    yield opened
    opened.close()


def flat(answer: Answer) -> list[tuple[dict[str, str], list[int], list[str]]]:
    found = [(r.labels, r.ts.tolist(), [f"{v:.12g}" for v in r.values.tolist()]) for r in answer.rows()]
    return sorted(found, key=lambda r: sorted(r[0].items()))


QUERIES = (
    '{hw_gpu=~".+"}',
    'm_1{hw_gpu!="4"} offset 7s',
    "m_0 @ 1700000100",
    "timestamp(m_2)",
    "sum by (__name__) (rate(m_0[30s]))",
    "max_over_time(m_1[20s])",
    "avg_over_time({hw_gpu=~'[0-9]'}[1m])",
    "quantile by (__name__) (0.9, {hw_gpu=~'.+'})",
    "count_over_time(m_0[15s:5s])",
)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("series", [6, 40])
def test_the_store_answers_as_memory_does(
    store: Store, series: int, sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if series > 6:
        # The ways for many series and samples, which a test has not.
        monkeypatch.setattr(selection, "_FEW", 0)
        monkeypatch.setattr(selection, "_SORTED_AT", 10)
        monkeypatch.setattr(selection, "_PORTION", 100)
        monkeypatch.setattr(selection, "_TOGETHER", 7)
    requests = drawn(series, series)
    for number, points in enumerate(requests):
        body = encoded(points)
        store.append(Batch("metrics", body, "", "a", "b", number + 1), body).result(30)
        if sealed and number == 30:
            store.seal()
    memory = in_memory(requests)
    for text in QUERIES:
        sources: tuple[Source, Source] = (store.view(), memory)
        ranged = [flat(range_(source, text, T, T + 400 * SECOND, 7 * SECOND)) for source in sources]
        assert ranged[0] == ranged[1], text
        for at in (T + 3 * SECOND, T + 150 * SECOND, T + 400 * SECOND):
            assert flat(instant(store.view(), text, at)) == flat(instant(memory, text, at)), (text, at)


def test_a_view_sees_no_later_series(store: Store) -> None:
    clock = store._clock
    assert isinstance(clock, SettableClock)
    for number, gpu in enumerate("ab"):
        body = encoded([("m", gpu, T, 1.0)])
        store.append(Batch("metrics", body, "", "a", "b", number + 1), body).result(30)
        clock.advance(10)
    assert [labels["hw_gpu"] for labels, _, _ in flat(instant(store.view(), "m", T))] == ["a", "b"]
    assert [labels["hw_gpu"] for labels, _, _ in flat(instant(store.view(until=T + 5 * SECOND), "m", T))] == [
        "a"
    ]
    assert flat(instant(store.view(until=T), "m", T)) == []


def test_labels_that_become_the_same_are_joined(store: Store) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="a.b")
    for number, keys in enumerate((("x.y", "x_y"), ("x.y",), ("x_y",))):
        point = metric.gauge.data_points.add(time_unix_nano=T + number, as_double=number)
        for key in keys:
            point.attributes.add(key=key).value.string_value = "1"
    body = request.SerializeToString()
    store.append(Batch("metrics", body, "", "a", "b", 1), body).result(30)
    found = flat(instant(store.view(), "a_b", T + 10))
    # The second and the third are one series now, and the newest value of it counts.
    assert [(labels["x_y"], value) for labels, _, (value,) in found] == [("1", "2"), ("1;1", "0")]


def test_of_two_at_the_same_time_the_last_counts(store: Store) -> None:
    for number in range(4):
        body = encoded([("m", str(gpu), T + 5 * SECOND, float(10 * number + gpu)) for gpu in range(3)])
        store.append(Batch("metrics", body, "", "a", "b", number + 1), body).result(30)
        if number == 1:
            store.seal()
            store._hot.sealed(store.view().position()[0], 0)
    for answer in (
        instant(store.view(), "m", T + 9 * SECOND),
        instant(store.view(), "max_over_time(m[10s])", T + 9 * SECOND),
        range_(store.view(), "m", T + 9 * SECOND, T + 10 * SECOND, 5 * SECOND),
    ):
        assert [values for _, _, values in flat(answer)] == [["30"], ["31"], ["32"]]


def test_too_many_samples_are_refused(store: Store) -> None:
    body = encoded([("m", str(n % 10), T + n * SECOND, 1.0) for n in range(200)])
    store.append(Batch("metrics", body, "", "a", "b", 1), body).result(30)
    with pytest.raises(QueryError, match="too many samples"):
        instant(store.view(), "sum(count_over_time(m[1h]))", T + 300 * SECOND, Options(samples=100))
    with pytest.raises(QueryError, match="too many samples"):
        range_(store.view(), "m", T, T + 100 * SECOND, SECOND, Options(samples=500))
