"""Requests of known metrics, some left out or in another order, are read as the general decoder reads them."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.store.drawn_metrics import NOW, general, label, renumbered, requests, same

from misstep.store import ingest
from misstep.store.layout import Layout, Reading
from misstep.store.layouts import Layouts
from misstep.store.template import Template, united


def template_of(bodies: list[bytes]) -> Template | None:
    """Of all of them, if they have one."""
    try:
        whole = functools.reduce(united, bodies)
        layout = Layout.of([whole], ingest.read_points)[0]
        return Template(whole, layout) if layout is not None else None
    except (ValueError, IndexError):
        return None


def mixed(bodies: list[bytes], rng: random.Random, *, twice: bool = False) -> bytes:
    """Some scopes of some requests, each with some of its metrics, in any order."""
    parts = [
        part for body in bodies for part in ExportMetricsServiceRequest.FromString(body).resource_metrics
    ]
    request = ExportMetricsServiceRequest()
    for part in rng.sample(parts, rng.randint(1, len(parts))):
        made = request.resource_metrics.add()
        made.resource.CopyFrom(part.resource)
        for scope in rng.sample(list(part.scope_metrics), rng.randint(1, len(part.scope_metrics))):
            own = made.scope_metrics.add()
            own.scope.CopyFrom(scope.scope)
            metrics = list(scope.metrics) * (1 + twice)
            own.metrics.extend(rng.sample(metrics, rng.randint(min(1, len(metrics)), len(metrics))))
    return bytes(request.SerializeToString())


def read(template: Template | None, body: bytes) -> Reading | None:
    found = template.read(body) if template is not None else None
    return found[1] if found is not None else None


def alike(one: Reading, other: Reading) -> bool:
    """The same rows; those of a series in the same order."""
    order, others = np.argsort(one.series, kind="stable"), np.argsort(other.series, kind="stable")
    return same(one.only(order), other.only(others))


@settings(max_examples=100)
@given(st.lists(requests(), min_size=1, max_size=3), st.randoms(use_true_random=False), st.booleans())
def test_what_is_read_is_what_the_general_way_reads(bodies: list[bytes], rng: Any, twice: bool) -> None:
    template = template_of(bodies)
    body = renumbered(mixed(bodies, rng, twice=twice), rng.getrandbits(32))
    found, expected = read(template, body), general(body)
    if found is not None:
        assert expected is not None and alike(found, expected)


@settings(max_examples=60)
@given(requests(), st.randoms(use_true_random=False))
def test_a_request_of_what_is_known_is_read(body: bytes, rng: Any) -> None:
    template = template_of([body])
    following = mixed([body], rng)
    expected = general(following)
    if template is None or expected is None or not len(expected):
        return
    found = read(template, following)
    if found is None:  # the order of two that tell of one series counts
        assert len(set(expected.series.tolist())) < len(expected)
    else:
        assert alike(found, expected)


@settings(max_examples=150)
@given(st.lists(requests(), min_size=1, max_size=2), st.randoms(use_true_random=False), st.data())
def test_any_change_of_bytes_is_read_right_or_left_to_the_general_way(
    bodies: list[bytes], rng: Any, data: Any
) -> None:
    template = template_of(bodies)
    changed = bytearray(mixed(bodies, rng))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for some in (changed, changed[:-1], changed + b"\0", b""):
        found = read(template, bytes(some))
        if found is not None:
            expected = general(bytes(some))
            assert expected is not None and alike(found, expected)


def body_of(node: int, sweep: int, metrics: list[int]) -> bytes:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    for key, value in (("host.name", f"node-{node}"), ("service.name", "agent")):
        part.resource.attributes.add(key=key).value.string_value = value
    scope = part.scope_metrics.add()
    for metric in metrics:
        points = scope.metrics.add(name=f"m{metric}").gauge.data_points
        for number in range(4):
            label(points.add(time_unix_nano=NOW + sweep, as_double=sweep + number / 8), {"gpu": str(number)})
    return bytes(request.SerializeToString())


def test_a_sender_that_leaves_out_and_reorders_is_known_soon() -> None:
    layouts, rng, decoded = Layouts(), random.Random(5), 0
    for sweep in range(200):
        body = body_of(1, sweep, rng.sample(range(12), 11))
        known = layouts.read(body)
        if known is None:
            decoded += 1
            layouts.learn([body], ingest.read_points)
        else:
            expected = general(body)
            assert expected is not None and alike(known.reading, expected)
    assert decoded <= 3


def test_a_time_that_is_made_of_the_first_point_is_of_the_request_s_first_point() -> None:
    early, late = body_of(1, 0, [1, 2, 3]), ExportMetricsServiceRequest.FromString(body_of(1, 7, [3, 2]))
    late.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[0].time_unix_nano = NOW + 99
    body = late.SerializeToString()
    found, expected = read(template_of([early]), body), general(body)
    assert found is not None and expected is not None and alike(found, expected)
    assert sorted(found.ts.tolist())[-2:] == [NOW + 99, NOW + 99]  # the point and its target_info


def test_two_metrics_that_tell_of_one_series_are_read_apart_and_left_to_the_general_way_together() -> None:
    more = body_of(1, 1, [1]), ExportMetricsServiceRequest.FromString(body_of(1, 2, [1]))
    del more[1].resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[2:]
    template = template_of([more[0], more[1].SerializeToString()])
    for body in (more[0], more[1].SerializeToString()):
        found, expected = read(template, body), general(body)
        assert found is not None and expected is not None and alike(found, expected)
    assert read(template, united(more[0], more[1].SerializeToString())) is None


@pytest.mark.parametrize("damaged", [b"\x0a\x02\x0a\x7f", b"\x0a\x04\x12\x02\x0a\x7f", b"\x12\x02\x0a\x7f"])
def test_what_stands_with_no_metric_is_looked_at_by_the_general_way(damaged: bytes) -> None:
    body = body_of(1, 0, [1, 2])
    template = template_of([body])
    assert read(template, body) is not None
    assert read(template, body + damaged) is None


def test_that_series_live_is_told_of_those_that_came() -> None:
    layouts = Layouts()
    layouts.learn([body_of(1, 0, [1, 2, 3])], ingest.read_points)
    first = layouts.read(body_of(1, 1, [2, 1]))
    assert first is not None
    first.layout.refresh(7)
    found = [layouts.read(body_of(1, 2, order)) for order in ([1], [2, 1], [2, 3])]
    assert [one.layout.refreshed for one in found if one is not None] == [7, 7, 0]


def test_memory_is_bounded() -> None:
    layouts = Layouts(60_000)
    for node in range(60):
        layouts.learn([body_of(node, 0, [1, 2, 3])], ingest.read_points)
    assert 20_000 < layouts.size <= 60_000
    assert layouts.read(body_of(59, 1, [3, 2])) is not None
    assert layouts.read(body_of(0, 1, [3, 2])) is None
