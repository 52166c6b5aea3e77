"""The load of the ingest benchmark: what 50 nodes with 40 metrics of 8 GPUs each send, as OTLP or as remote write.

A quarter of the metrics each are gauges of two decimals, counters, constants and utilisation. Bodies are built before
anything is measured.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Metric,
    ResourceMetrics,
)

from misstep.agent.otlp import framed, varint

NODES, METRICS, GPUS = 50, 40, 8
SERIES = NODES * METRICS * GPUS
SECOND = 10**9
_MARK = 0x1122334400000000
START = 1_700_000_000 * SECOND
"""Time of the first point, Unix nanoseconds."""


class Shape(NamedTuple):
    """What senders do.

    Attributes:
        points: of each series in a request.
        churn: metrics in another order and one left out in every request, so that no request looks like the one before.
        gzip: compressed by the sender.
    """

    points: int = 1
    churn: bool = False
    gzip: bool = False

    def __str__(self) -> str:
        return f"{self.points} point{'s' * (self.points > 1)} per series and request, {'churn' if self.churn else 'steady'}{', gzip' if self.gzip else ''}"


class Fleet(NamedTuple):
    """What is measured on each node, for each of its GPUs.

    Attributes:
        prefix: of the metrics' names.
        metrics: how many there are.
        start: time of the first point, Unix nanoseconds.
    """

    prefix: str = "bench_metric"
    metrics: int = METRICS
    start: int = START

    @property
    def series(self) -> int:
        """In all."""
        return NODES * self.metrics * GPUS


_USUAL = Fleet()


class _Blob(NamedTuple):
    """One encoded metric of one node and where its times and values stand; shape (GPUS, points) each."""

    data: bytes
    times: np.ndarray
    values: np.ndarray


def otlp(shape: Shape, points: int, step: int = 1, fleet: Fleet = _USUAL) -> list[bytes]:
    """Bodies that hold about so many points in all, sweep by sweep over all nodes; `step` seconds between points."""
    return [_packed(body, shape) for body in _requests(shape, points, step, fleet)]


def names() -> list[str]:
    """Of the metrics."""
    return [f"bench_metric_{m}" for m in range(METRICS)]


def _packed(body: bytes, shape: Shape) -> bytes:
    return gzip.compress(body, 1) if shape.gzip else body


def _requests(shape: Shape, points: int, step: int, fleet: Fleet) -> Iterator[bytes]:
    nodes = [
        [_blob(node, f"{fleet.prefix}_{m}", m, shape.points) for m in range(fleet.metrics)]
        for node in range(NODES)
    ]
    heads = [_resource(node) for node in range(NODES)]
    rng, numbers = random.Random(1), np.random.default_rng(1)
    sent = sweep = 0
    while sent < points:
        for node in range(NODES):
            order = list(range(fleet.metrics))
            if shape.churn:
                rng.shuffle(order)
                order.pop()
            yield _assemble(
                heads[node],
                [nodes[node][m] for m in order],
                order,
                sweep,
                shape.points,
                step,
                numbers,
                fleet.start,
            )
            sent += len(order) * GPUS * shape.points
        sweep += 1


def _assemble(head: bytes, blobs: list[_Blob], order: list[int], sweep: int, points: int, step: int, rng: np.random.Generator, start: int) -> bytes:  # fmt: skip
    metrics = b"".join(b"\x12" + varint(len(blob.data)) + blob.data for blob in blobs)
    scope = b"\x12" + varint(len(metrics))
    inner = len(head) + len(scope) + len(metrics)
    prefix = b"\x0a" + varint(inner) + head + scope
    body = np.frombuffer(prefix + metrics, np.uint8).copy()
    at = len(prefix)
    # One time for a node and sweep, a few milliseconds off the second, as an agent's.
    times = start + (sweep * points + np.arange(points)) * step * SECOND + int(rng.integers(0, 2_000_000))
    eight = np.arange(8)
    for blob, metric in zip(blobs, order, strict=True):
        at += 1 + len(varint(len(blob.data)))
        values = _values(metric, sweep * points + np.arange(points), rng)
        body[at + blob.times[..., None] + eight] = np.broadcast_to(times, (GPUS, points)).astype("<i8")[..., None].view(np.uint8).reshape(GPUS, points, 8)  # fmt: skip
        body[at + blob.values[..., None] + eight] = values.astype("<f8")[..., None].view(np.uint8).reshape(GPUS, points, 8)  # fmt: skip
        at += len(blob.data)
    return body.tobytes()


def _values(metric: int, seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shape = (GPUS, len(seconds))
    match metric % 4:
        case 0:
            return np.round(rng.normal(60, 5, shape), 2)
        case 1:
            return np.broadcast_to(1000.0 * seconds, shape) + rng.integers(0, 900, shape)
        case 2:
            return np.full(shape, 85899345920.0)
        case _:
            return rng.integers(0, 101, shape).astype(float)


def _blob(node: int, name: str, number: int, points: int) -> _Blob:
    metric = Metric(name=name)
    held: Any = metric.sum if number % 4 == 1 else metric.gauge
    if number % 4 == 1:
        metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.sum.is_monotonic = True
    for gpu in range(GPUS):
        for point in range(points):
            added = held.data_points.add(time_unix_nano=_MARK + gpu * points + point)
            added.as_double = _real(gpu * points + point)
            for key, value in (("gpu", str(gpu)), ("node", f"node-{node:04d}")):
                added.attributes.add(key=key).value.string_value = value
    data = metric.SerializeToString()
    count = GPUS * points
    times = [data.index(struct.pack("<Q", _MARK + i)) for i in range(count)]
    values = [data.index(struct.pack("<d", _real(i))) for i in range(count)]
    return _Blob(data, np.array(times).reshape(GPUS, points), np.array(values).reshape(GPUS, points))


def _real(number: int) -> float:
    return 1.2345678901234e-200 * (number + 1)


def _resource(node: int) -> bytes:
    held = ResourceMetrics()
    for key, value in (
        ("host.name", f"node-{node:04d}"),
        ("service.name", "bench"),
        ("service.instance.id", f"i{node}"),
    ):
        held.resource.attributes.append(KeyValue(key=key))
        held.resource.attributes[-1].value.string_value = value
    return bytes(held.SerializeToString())


def histograms(points: int, step: int, per_request: int = 10) -> Iterator[bytes]:
    """Bodies of one histogram with twelve buckets, ``bench_latency``, of all nodes and GPUs; so many points of each."""
    rng = np.random.default_rng(2)
    bounds = [0.001 * 2**place for place in range(11)]
    totals = np.zeros((NODES, GPUS, 12), np.int64)
    for begin in range(0, points, per_request):
        for node in range(NODES):
            body = ResourceMetrics()
            body.ParseFromString(_resource(node))
            held = body.scope_metrics.add().metrics.add(name="bench_latency").histogram
            held.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            for gpu in range(GPUS):
                for place in range(begin, min(begin + per_request, points)):
                    totals[node, gpu] += rng.integers(0, 20, 12)
                    counts = totals[node, gpu].tolist()
                    point = held.data_points.add(time_unix_nano=START + place * step * SECOND, bucket_counts=counts, explicit_bounds=bounds, count=sum(counts), sum=float(sum(counts)))  # fmt: skip
                    for key, value in (("gpu", str(gpu)), ("node", f"node-{node:04d}")):
                        point.attributes.add(key=key).value.string_value = value
            yield framed(0x0A, body.SerializeToString())


def remote_write(points: int, per_series: int = 1) -> list[bytes]:
    """Snappy bodies as Prometheus sends them: 2,000 samples each, all series of a sweep in turn.

    Protocol: prometheus.io/docs/specs/prw/remote_write_spec (v1): WriteRequest.timeseries = 1 {labels = 1 {name, value}, samples = 2 {value = 1, timestamp = 2}}.
    """
    import cramjam

    series = [_labels(node, m, gpu) for node in range(NODES) for m in range(METRICS) for gpu in range(GPUS)]
    rng = np.random.default_rng(1)
    bodies: list[bytes] = []
    held: list[bytes] = []
    samples = sweep = 0
    size = max(1, 2000 // per_series)
    while samples < points:
        for at, labels in enumerate(series):
            seconds = sweep * per_series + np.arange(per_series)
            values = _values(at // GPUS % METRICS, seconds, rng)[at % GPUS]
            stamps = (START + seconds * SECOND) // 10**6
            body = labels + b"".join(
                framed(0x12, b"\x09" + struct.pack("<d", value) + b"\x10" + varint(int(stamp)))
                for value, stamp in zip(values.tolist(), stamps.tolist(), strict=True)
            )
            held.append(framed(0x0A, body))
            samples += per_series
            if len(held) == size:
                bodies.append(bytes(cramjam.snappy.compress_raw(b"".join(held))))
                held = []
        sweep += 1
    if held:
        bodies.append(bytes(cramjam.snappy.compress_raw(b"".join(held))))
    return bodies


def _labels(node: int, metric: int, gpu: int) -> bytes:
    pairs = sorted(
        {"__name__": names()[metric], "gpu": str(gpu), "node": f"node-{node:04d}", "instance": f"node-{node:04d}", "job": "bench"}.items()
    )  # fmt: skip
    return b"".join(framed(0x0A, framed(0x0A, k.encode()) + framed(0x12, v.encode())) for k, v in pairs)
