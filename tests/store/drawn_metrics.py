"""Metric requests as senders make them, drawn by Hypothesis, and what the general decoder says of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.store import ingest
from misstep.store.layout import Reading

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
        if draw(st.booleans()):
            part.resource.attributes.add(key="service.name").value.string_value = "train"
        for _ in range(draw(st.integers(1, 2))):
            _scope(draw, part.scope_metrics.add())
    return bytes(request.SerializeToString())


def _scope(draw: Any, scope: Any) -> None:
    scope.scope.name = draw(st.sampled_from(["", "agent"]))
    for _ in range(draw(st.integers(0, 3))):
        metric = scope.metrics.add(name=draw(NAME), unit=draw(st.sampled_from(["", "1", "By"])))
        if draw(st.booleans()):
            _numbers(draw, metric)
        else:
            _histogram(draw, metric)


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
        label(point, labels)


def _histogram(draw: Any, metric: Any) -> None:
    metric.histogram.aggregation_temporality = 2
    for labels, ts, counts in draw(st.lists(HISTOGRAM, max_size=2)):
        point = metric.histogram.data_points.add(
            time_unix_nano=ts, count=sum(counts), sum=1.5, min=0.1, max=9.0
        )
        point.bucket_counts.extend(counts)
        point.explicit_bounds.extend(range(1, len(counts)))
        label(point, labels)


def label(point: Any, labels: dict[str, str]) -> None:
    for key, value in labels.items():
        point.attributes.add(key=key).value.string_value = value


def general(body: bytes) -> Reading | None:
    """What the general decoder says, where it takes the request whole."""
    return ingest.read_points([body])[0]


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
