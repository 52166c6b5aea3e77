"""Names as Prometheus' own OTLP receiver writes them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.core import names
from misstep.store.translation import label_name, metric_name


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("requests", "", "sum", "requests_total"),
        ("requests_total", "", "sum", "requests_total"),
        ("requests.total.count", "1", "sum", "requests_count_total"),
        ("cpu_usage", "1", "gauge", "cpu_usage_ratio"),
        ("cpu_usage_ratio", "1", "gauge", "cpu_usage_ratio"),
        ("items", "1", "sum_non_monotonic", "items"),
        ("process.memory.usage", "By", "gauge", "process_memory_usage_bytes"),
        ("response_time_seconds", "s", "gauge", "response_time_seconds"),
        ("process.cpu.time", "s", "sum", "process_cpu_time_seconds_total"),
        ("throughput", "By/s", "gauge", "throughput_bytes_per_second"),
        ("requests", "1/s", "gauge", "requests_per_second"),
        ("speed", "m/m", "gauge", "speed_meters_per_minute"),
        ("custom", "{things}", "gauge", "custom"),
        ("custom", "By/{thing}", "gauge", "custom_bytes"),
        ("custom", "{thing}/s", "gauge", "custom_per_second"),
        ("custom", "unit@with#special/chars", "gauge", "custom_unit_with_special_per_chars"),
        ("metric__with..many", "a__b", "gauge", "metric_with_many_a_b"),
        ("123.requests", "", "gauge", "_123_requests"),
        ("a:b", "", "gauge", "a:b"),
        ("http.server.request.duration", "s", "histogram", "http_server_request_duration_seconds"),
        ("hw.gpu.utilization", "%", "gauge", "hw_gpu_utilization_percent"),
        ("@#$", "", "gauge", "_"),
        ("", "", "gauge", "_"),
        ("метрика", "By", "gauge", "bytes"),
    ],
)
def test_names_follow_the_standard_translation(name: str, unit: str, kind: str, expected: str) -> None:
    assert metric_name(name, unit, kind) == expected


@given(st.text(max_size=12), st.text(max_size=8), st.sampled_from(["gauge", "sum", "histogram"]))
def test_every_name_is_one_that_prometheus_takes(name: str, unit: str, kind: str) -> None:
    found = metric_name(name, unit, kind)
    assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", found)
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label_name(name))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("process.pid", "process_pid"),
        ("__name__", "__name__"),
        ("a__b", "a__b"),
        ("1st", "key_1st"),
        ("", "_"),
        ("k8s.pod-name", "k8s_pod_name"),
    ],
)
def test_labels(key: str, expected: str) -> None:
    assert label_name(key) == expected


def test_our_own_metrics_keep_names_of_their_own() -> None:
    """No two of the names that we send ourselves fall together."""
    found = {metric_name(metric.name, metric.unit, metric.kind) for metric in names.METRICS}
    assert len(found) == len(names.METRICS)
