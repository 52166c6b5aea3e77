"""What a request holds, read item by item with opentelemetry-proto."""

from __future__ import annotations

import base64
import itertools
import json
import math
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from misstep.store.metrics import RESOURCE_LABELS
from misstep.store.translation import metric_name


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind) if kind else None


def text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    found = plain(value)
    if kind is None:
        return ""
    if kind == "bool_value":
        return "true" if found else "false"
    if kind in ("array_value", "kvlist_value"):
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return found if isinstance(found, str) else repr(found)


def texts(pairs: Any) -> dict[str, str]:
    return {pair.key: text(pair.value) for pair in pairs}


FAMILIES = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


class Sample(NamedTuple):
    """One sample as a plain reading finds it."""

    name: str
    prometheus: str
    kind: str
    labels: dict[str, str]
    ts: int
    value: float


class Point(NamedTuple):
    """One data point, why it is rejected, and what it becomes if it is not."""

    request: int
    code: str
    samples: list[Sample]
    exemplars: list[tuple[str, float]]


def le(bound: float) -> str:
    if math.isinf(bound):
        return "+Inf"
    found = f"{bound:.30f}" if abs(bound) < 1e21 and bound == int(bound) else repr(bound)
    return found.rstrip("0").rstrip(".") if "." in found else found


def exponential_buckets(point: Any) -> list[tuple[float, int]]:
    """Cumulative counts by upper bound, walked bucket by bucket."""

    def base(index: int) -> float:
        exponent = index * 2.0**-point.scale
        return math.inf if exponent >= 1024 else float(2.0**exponent)

    found: list[tuple[float, int]] = []
    seen = 0
    negative = list(enumerate(point.negative.bucket_counts, point.negative.offset))
    if negative:
        found.append((-base(negative[-1][0] + 1), 0))
    for index, count in reversed(negative):
        seen += count
        found.append((-base(index), seen))
    seen += point.zero_count
    positive = list(enumerate(point.positive.bucket_counts, point.positive.offset))
    if positive:
        found.append((base(positive[0][0]), seen))
    middle = seen
    for index, count in positive:
        seen += count
        found.append((base(index + 1), seen))
    told = [(b, c) for b, c in found if point.zero_threshold < abs(b) < math.inf]
    return [*told, (point.zero_threshold, middle)]


def buckets_of(kind: str, point: Any) -> list[tuple[float, int]] | None:
    """Upper bounds and cumulative counts, +Inf last; None where they do not hold together."""
    if kind == "exponential_histogram":
        if not -48 <= point.scale <= 48 or math.isnan(point.zero_threshold):
            return None
        return [*exponential_buckets(point), (math.inf, point.count)]
    bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
    rising = all(a < b for a, b in itertools.pairwise(bounds)) and not any(map(math.isnan, bounds))
    if not rising or (counts and len(counts) != len(bounds) + 1):
        return None
    sums = itertools.accumulate(counts[:-1])
    finite = [(b, c) for b, c in zip(bounds, sums, strict=False) if math.isfinite(b)] if counts else []
    return [*finite, (math.inf, point.count)]


def read_point(index: int, kind: str, metric: Any, point: Any, resource: dict[str, str]) -> Point:
    data = getattr(metric, kind)
    shared = {k: v for k, v in resource.items() if k in RESOURCE_LABELS} | identity(resource)
    labels = shared | texts(point.attributes)
    if kind in ("histogram", "exponential_histogram", "summary"):
        labels = shared | {k: v for k, v in texts(point.attributes).items() if k not in ("le", "quantile")}
    stale = bool(point.flags & 1)
    temporality = getattr(data, "aggregation_temporality", 2)
    stored = {"gauge": "gauge", "summary": "summary", "sum": "sum"}.get(kind, "histogram")
    if kind == "sum" and not data.is_monotonic:
        stored = "sum_non_monotonic"
    if temporality == 1:
        stored = "delta"
    grows = kind == "sum" and data.is_monotonic
    prometheus = metric_name(metric.name, metric.unit, "sum" if grows else "gauge" if kind == "gauge" else "")
    found: list[Sample] = []
    code = ""

    def add(suffix: str, value: float, **more: str) -> None:
        told = math.nan if stale else float(value)
        found.append(
            Sample(
                metric.name + suffix, prometheus + suffix.replace(".", "_"), stored, labels | more,
                point.time_unix_nano, told,
            )
        )  # fmt: skip

    told_exemplars: list[tuple[str, float]] = []
    buckets: list[tuple[float, int]] | None = []
    if kind in ("gauge", "sum"):
        field = point.WhichOneof("value")
        add("", float(getattr(point, field)) if field else 0.0)
        code = "" if field or stale else "no_value"
    elif kind == "summary":
        for pair in point.quantile_values:
            add("", pair.value, quantile=le(pair.quantile))
        if any(math.isnan(pair.quantile) for pair in point.quantile_values):
            code = "bucket_shape"
    else:
        buckets = buckets_of(kind, point)
        if buckets is None:
            code = "bucket_shape"
        for bound, count in buckets or []:
            add(".bucket", count, le=le(bound))
    if kind not in ("gauge", "sum") and not code:
        if stale or kind == "summary" or point.HasField("sum"):
            add(".sum", point.sum)
        add(".count", point.count)
    for exemplar in getattr(point, "exemplars", ()):
        field = exemplar.WhichOneof("value")
        if field:
            value = float(getattr(exemplar, field))
            bound = min((b for b, _ in buckets or [] if b >= value), default=math.inf)
            told_exemplars.append((le(bound) if buckets else labels.get("le", ""), value))
    if temporality not in (1, 2):
        code = "unspecified_temporality"
    if point.time_unix_nano >= 2**63:
        code = "time_out_of_range"
    return Point(index, code or "accepted", found, told_exemplars)


def identity(resource: dict[str, str]) -> dict[str, str]:
    service, space = resource.get("service.name", ""), resource.get("service.namespace", "")
    job = f"{space}/{service}" if space and service else service
    found = {"job": job, "instance": resource.get("service.instance.id", "")}
    return {key: value for key, value in found.items() if value}


def read_metrics(index: int, request: ExportMetricsServiceRequest) -> list[Point]:
    """What a plain reading finds, family by family, each in the order of the request."""
    found = []
    known: set[int] = set()
    for kind in FAMILIES:
        for place, resource in enumerate(request.resource_metrics):
            own = texts(resource.resource.attributes)
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in getattr(metric, kind).data_points:
                        one = read_point(index, kind, metric, point, own)
                        rest = {k: v for k, v in own.items() if k not in IDENTITY}
                        if place not in known and rest and identity(own):
                            value = math.nan if point.flags & 1 else 1.0
                            target = Sample(
                                "target_info", "target_info", "gauge", rest | identity(own),
                                point.time_unix_nano, value,
                            )  # fmt: skip
                            one.samples.append(target)
                        known.add(place)
                        found.append(one)
    return found


IDENTITY = ("service.name", "service.namespace", "service.instance.id")
