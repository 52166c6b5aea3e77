"""Requests that are put together of known metrics are read as the general decoder reads them."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from tests.store.drawn_metrics import NOW, general, label, renumbered, requests, same

from misstep.store import ingest
from misstep.store.layout import Layout, Reading
from misstep.store.layouts import Layouts
from misstep.store.pieces import Pieces


def learned(bodies: list[bytes]) -> Pieces:
    pieces = Pieces(1 << 20)
    for body in bodies:
        layout = Layout.of([body], ingest.read_points)[0]
        if layout is not None:
            pieces.learn(body, layout)
    return pieces


def mixed(bodies: list[bytes], rng: random.Random) -> bytes:
    """Some scopes of some requests, each with some of its metrics, in any order and any number of times."""
    parts = [
        part for body in bodies for part in ExportMetricsServiceRequest.FromString(body).resource_metrics
    ]
    request = ExportMetricsServiceRequest()
    for part in rng.choices(parts, k=rng.randint(1, 3)):
        made = request.resource_metrics.add()
        made.resource.CopyFrom(part.resource)
        for scope in rng.choices(part.scope_metrics, k=rng.randint(1, 2)):
            own = made.scope_metrics.add()
            own.scope.CopyFrom(scope.scope)
            if scope.metrics:
                own.metrics.extend(rng.choices(scope.metrics, k=rng.randint(1, 4)))
    return bytes(request.SerializeToString())


def read(pieces: Pieces, body: bytes) -> Reading | None:
    layout = pieces.layout(body)
    return layout.read(body) if layout is not None else None


@settings(max_examples=60)
@given(st.lists(requests(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_what_is_put_together_is_read_as_the_general_way_reads_it(bodies: list[bytes], rng: Any) -> None:
    pieces = learned(bodies)
    body = renumbered(mixed(bodies, rng), rng.getrandbits(32))
    found, expected = read(pieces, body), general(body)
    if found is not None:
        assert expected is not None and same(found, expected)


@settings(max_examples=60)
@given(requests(), st.randoms(use_true_random=False))
def test_a_request_of_what_is_known_is_read(body: bytes, rng: Any) -> None:
    pieces = learned([body])
    if Layout.of([body], ingest.read_points)[0] is None or not _distinct(body):
        return
    following = mixed([body], rng)
    found, expected = read(pieces, following), general(following)
    assert expected is not None
    if len(expected):
        assert found is not None and same(found, expected)


@settings(max_examples=150)
@given(st.lists(requests(), min_size=1, max_size=2), st.randoms(use_true_random=False), st.data())
def test_any_change_of_bytes_is_read_right_or_left_to_the_general_way(
    bodies: list[bytes], rng: Any, data: Any
) -> None:
    pieces = learned(bodies)
    changed = bytearray(mixed(bodies, rng))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    found = read(pieces, bytes(changed))
    if found is not None:
        expected = general(bytes(changed))
        assert expected is not None and same(found, expected)
    for cut in (changed[:-1], changed + b"\0", b""):
        assert read(pieces, bytes(cut)) is None or general(bytes(cut)) is not None


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
            assert expected is not None and same(known.reading, expected)
    assert decoded < 5


def test_what_was_put_together_is_kept_for_a_sender_that_goes_on_so_and_for_no_other() -> None:
    layouts = Layouts()
    layouts.learn([body_of(1, 0, [1, 2, 3])], ingest.read_points)
    changed = [layouts.read(body_of(1, sweep, [3, 1])) for sweep in range(3)]
    assert [one is not None for one in changed] == [True] * 3
    assert changed[0] is not None and changed[1] is not None and changed[2] is not None
    assert changed[0].layout is changed[1].layout is changed[2].layout
    before = layouts.size
    for sweep in range(100):
        order = [1, 2] if sweep % 2 else [2, 3, 1, 1]
        assert layouts.read(body_of(1, sweep, order)) is not None
    assert layouts.size < 2 * before


def test_that_series_live_is_told_to_all_pieces() -> None:
    layouts = Layouts()
    layouts.learn([body_of(1, 0, [1, 2, 3])], ingest.read_points)
    first, second = (layouts.read(body_of(1, 1, order)) for order in ([2, 1], [3, 1]))
    assert first is not None and second is not None
    first.layout.refresh(7)
    third, fourth = (layouts.read(body_of(1, 2, order)) for order in ([1, 2, 2], [2, 3, 3]))
    assert third is not None and fourth is not None
    assert (third.layout.refreshed, fourth.layout.refreshed) == (7, 0)


def test_memory_is_bounded() -> None:
    layouts = Layouts(60_000)
    for node in range(60):
        layouts.learn([body_of(node, 0, [1, 2, 3])], ingest.read_points)
    assert 20_000 < layouts.size <= 60_000
    assert layouts.read(body_of(59, 1, [3, 2])) is not None
    assert layouts.read(body_of(0, 1, [3, 2])) is None


def _distinct(body: bytes) -> bool:
    """Whether every scope has metrics, and no two of one sender have one name and one length: the last would be known."""
    found = []
    for part in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in part.scope_metrics:
            if not scope.metrics:
                return False
            sender = part.resource.SerializeToString(), scope.scope.SerializeToString()
            found += [(*sender, metric.name, metric.ByteSize()) for metric in scope.metrics]
    return len(found) == len(set(found))
