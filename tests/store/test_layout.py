"""The short way of reading a metric request says the same as the general one, whatever is done to the request."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.store import ingest, otlp
from misstep.store.layout import Layout, Reading
from misstep.store.layouts import Layouts

NOW = 1_700_000_000_000_000_000

NAME = st.sampled_from(["hw.gpu.utilization", "ray.tasks", "x", "système"])
LABELS = st.dictionaries(
    st.sampled_from(["gpu", "host.name", "a"]), st.text("aé€ 😀", max_size=4), max_size=3
)
NUMBER = st.one_of(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1))
POINT = st.tuples(LABELS, st.integers(1, 2**62), NUMBER)
HISTOGRAM = st.tuples(LABELS, st.integers(1, 2**62), st.lists(st.integers(0, 2**30), min_size=1, max_size=5))


@st.composite
def requests(draw: Any) -> bytes:
    request = ExportMetricsServiceRequest()
    for _ in range(draw(st.integers(1, 2))):
        part = request.resource_metrics.add()
        part.resource.attributes.add(key="host.name").value.string_value = draw(st.sampled_from(["n1", "n2"]))
        scope = part.scope_metrics.add()
        for _ in range(draw(st.integers(0, 3))):
            metric = scope.metrics.add(name=draw(NAME), unit=draw(st.sampled_from(["", "1", "By"])))
            if draw(st.booleans()):
                _numbers(draw, metric)
            else:
                _histogram(draw, metric)
    return bytes(request.SerializeToString())


def _numbers(draw: Any, metric: Any) -> None:
    if draw(st.booleans()):
        metric.sum.aggregation_temporality, metric.sum.is_monotonic = 2, draw(st.booleans())
        points = metric.sum.data_points
    else:
        points = metric.gauge.data_points
    for labels, ts, value in draw(st.lists(POINT, max_size=4)):
        point = points.add(time_unix_nano=ts, start_time_unix_nano=7)
        if isinstance(value, float):
            point.as_double = value
        else:
            point.as_int = value
        _label(point, labels)


def _histogram(draw: Any, metric: Any) -> None:
    metric.histogram.aggregation_temporality = 2
    for labels, ts, counts in draw(st.lists(HISTOGRAM, max_size=2)):
        point = metric.histogram.data_points.add(
            time_unix_nano=ts, count=sum(counts), sum=1.5, min=0.1, max=9.0
        )
        point.bucket_counts.extend(counts)
        point.explicit_bounds.extend(range(1, len(counts)))
        _label(point, labels)


def _label(point: Any, labels: dict[str, str]) -> None:
    for key, value in labels.items():
        point.attributes.add(key=key).value.string_value = value


def general(body: bytes) -> Reading | None:
    """What the general decoder says, where it takes the request whole."""
    return ingest.read_points([body])[0]


def layout_of(body: bytes) -> Layout | None:
    return Layout.of([body], ingest.read_points)[0]


def same(one: Reading, other: Reading) -> bool:
    return all(
        np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))
        for a, b in zip(one, other, strict=True)
    )


def renumbered(body: bytes, seed: int) -> bytes:
    """The request with other numbers in it."""
    rng = random.Random(seed)
    request = ExportMetricsServiceRequest.FromString(body)
    for part in request.resource_metrics:
        for scope in part.scope_metrics:
            for metric in scope.metrics:
                for point in [*metric.gauge.data_points, *metric.sum.data_points]:
                    point.time_unix_nano = rng.randrange(1, 2**62)
                    if point.HasField("as_double"):
                        point.as_double = rng.choice([0.0, -0.0, rng.random(), float("inf"), 1e300])
                    else:
                        point.as_int = rng.randrange(-(2**63), 2**63)
                for held in metric.histogram.data_points:
                    held.time_unix_nano, held.count = rng.randrange(1, 2**62), rng.randrange(2**40)
                    held.sum, held.min, held.max = rng.random(), rng.random(), rng.random()
                    held.bucket_counts[:] = [rng.randrange(2**40) for _ in held.bucket_counts]
    return bytes(request.SerializeToString())


@given(requests(), st.integers(0, 2**32))
def test_other_numbers_are_read_as_the_general_way_reads_them(body: bytes, seed: int) -> None:
    layout = layout_of(body)
    following = renumbered(body, seed)
    expected = general(following)
    if layout is None or expected is None:
        return
    read = layout.read(following)
    assert read is None or same(read, expected)
    if len(following) == len(body):
        assert read is not None


@given(st.lists(requests(), min_size=2, max_size=4), st.integers(0, 2**32))
def test_layouts_that_are_made_together_read_as_those_made_alone(bodies: list[bytes], seed: int) -> None:
    for body, together in zip(bodies, Layout.of(bodies, ingest.read_points), strict=True):
        alone = layout_of(body)
        assert (alone is None) == (together is None)
        if alone is not None and together is not None:
            read, expected = (layout.read(renumbered(body, seed)) for layout in (together, alone))
            assert (read is None) == (expected is None)
            assert read is None or expected is None or same(read, expected)


@settings(max_examples=200)
@given(requests(), st.data())
def test_any_change_of_bytes_is_read_right_or_left_to_the_general_way(body: bytes, data: Any) -> None:
    layout = layout_of(body)
    if layout is None:
        return
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    read = layout.read(bytes(changed))
    if read is not None:
        expected = general(bytes(changed))
        assert expected is not None and same(read, expected)
    for cut in (body[:-1], body + b"\0", b""):
        assert layout.read(cut) is None


@given(st.binary(max_size=200))
def test_what_is_no_request_has_no_layout(data: bytes) -> None:
    layouts = Layouts()
    assert layouts.read(data) is None
    for _ in range(3):
        layouts.learn([data], lambda bodies: [None] * len(bodies))
    assert layouts.read(data) is None


def body_of(node: int, sweep: int, series: int = 8) -> bytes:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    part.resource.attributes.add(key="host.name").value.string_value = f"node-{node}"
    points = part.scope_metrics.add().metrics.add(name="m").gauge.data_points
    for number in range(series):
        point = points.add(time_unix_nano=NOW + sweep, as_double=sweep + number / 8)
        _label(point, {"gpu": str(number)})
    return bytes(request.SerializeToString())


def test_a_sender_is_known_after_its_first_request() -> None:
    layouts = Layouts()
    assert layouts.read(body_of(1, 0)) is None
    layouts.learn([body_of(1, 0)], ingest.read_points)
    known = layouts.read(body_of(1, 5))
    assert known is not None and known.reading.value.tolist() == [5 + n / 8 for n in range(8)]
    assert layouts.read(body_of(2, 5)) is None


def test_a_sender_whose_shape_changes_each_time_is_tried_ever_more_seldom() -> None:
    layouts = Layouts()
    made = 0

    def counted(bodies: list[bytes]) -> list[Reading | None]:
        nonlocal made
        made += len(bodies)
        return ingest.read_points(bodies)

    rng = random.Random(3)
    for sweep in range(400):
        numbers = list(range(8))
        rng.shuffle(numbers)
        request = ExportMetricsServiceRequest.FromString(body_of(1, sweep))
        points = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points
        for point, number in zip(points, numbers, strict=True):
            point.attributes[0].value.string_value = str(number)
        body = request.SerializeToString()
        if layouts.read(body) is None:
            layouts.learn([body], counted)
    assert made < 12


def test_memory_is_bounded() -> None:
    limit = 200_000
    layouts = Layouts(limit)
    for sweep in range(2):
        for node in range(400):
            layouts.learn([body_of(node, sweep)], ingest.read_points)
    assert 0 < layouts.bytes <= limit
    assert layouts.read(body_of(399, 3)) is not None
    assert layouts.read(body_of(0, 3)) is None


def test_a_time_before_1970_goes_the_general_way() -> None:
    body = body_of(1, 0)
    layout = layout_of(body)
    assert layout is not None
    odd = body.replace(struct.pack("<Q", NOW), struct.pack("<q", -1))
    assert len(odd) == len(body) and layout.read(odd) is None


@pytest.mark.parametrize("name", ["exponential_histogram", "summary"])
def test_other_kinds_have_no_layout(name: str) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    getattr(metric, name).data_points.add(time_unix_nano=NOW, count=1)
    assert layout_of(request.SerializeToString()) is None


def test_bits_of_a_stale_marker_survive() -> None:
    body = body_of(1, 0, series=1)
    layout = layout_of(body)
    stale = body.replace(struct.pack("<d", 0.0), struct.pack("<Q", 0x7FF0000000000002))
    assert layout is not None
    read = layout.read(stale)
    assert read is not None and read.value.view(np.uint64).tolist() == [0x7FF0000000000002]
    assert otlp.malformed(otlp.METRICS, stale) == ""
