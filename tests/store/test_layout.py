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
from tests.store.drawn_metrics import NOW, general, label, renumbered, requests, same

from misstep.store import ingest, otlp
from misstep.store.layout import Layout, Reading
from misstep.store.layouts import Layouts


def layout_of(body: bytes) -> Layout | None:
    return Layout.of([body], ingest.read_points)[0]


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
        label(point, {"gpu": str(number)})
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
    assert 0 < layouts.size <= limit
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
