"""A real Prometheus beside ours: it sends to us, and makes the same series of the same OTLP."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

ARCHIVE = Path(__file__).parents[3] / "shared" / "peers" / "bin.tar.xz"
CONFIGURATION = """
global: {{scrape_interval: 500ms}}
scrape_configs:
  - job_name: self
    static_configs: [{{targets: ['127.0.0.1:{port}']}}]
remote_write:
  - url: {url}/api/v1/write
    queue_config: {{batch_send_deadline: 500ms}}
otlp:
  promote_resource_attributes: [host.name, host.id, service.name, service.instance.id, misstep.session]
"""


@pytest.fixture(scope="module")
def prometheus(collector: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    binary = shutil.which("prometheus")
    if ARCHIVE.exists():
        with tarfile.open(ARCHIVE) as archive:
            archive.extract("prometheus", folder, filter="data")
        binary = str(folder / "prometheus")
    if binary is None or "version 2" in subprocess.check_output([binary, "--version"], text=True):
        pytest.skip("needs Prometheus 3 on PATH")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = CONFIGURATION.format(port=port, url=collector.addresses["collector"])
    (folder / "prometheus.yml").write_text(text)
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-otlp-receiver",
            "--log.level=error",
        ],
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not _ready(url):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(60)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(url: str, query: str) -> dict[str, str]:
    """Labels, as JSON, and value of each series."""
    with urllib.request.urlopen(f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": query})) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return {json.dumps(one["metric"], sort_keys=True): one["value"][1] for one in found}


def test_what_prometheus_writes_is_here(collector: Any, prometheus: str) -> None:
    ours = collector.addresses["collector"]
    collector.until(lambda: ask(ours, '{job="self"}'), seconds=30)
    names: set[str] = collector.until(
        lambda: {json.loads(k)["__name__"] for k in ask(prometheus, '{job="self"}')}
    )

    def missing() -> set[str]:
        return names - {json.loads(k)["__name__"] for k in ask(ours, '{job="self"}')}

    collector.until(lambda: not missing(), seconds=30)
    counted = collector.metrics()
    assert counted['misstep_collector_refused_total{reason="malformed"}'] == 0
    assert counted['misstep_collector_requests_total{signal="remote_write"}'] > 0


def test_the_same_otlp_makes_the_same_series(collector: Any, prometheus: str) -> None:
    body = _request().SerializeToString()
    headers = {"Content-Type": "application/x-protobuf"}
    assert collector.request("POST", "/v1/metrics", body, headers).status == 200
    post = urllib.request.Request(f"{prometheus}/api/v1/otlp/v1/metrics", body, headers)
    with urllib.request.urlopen(post) as answer:
        assert answer.status == 200
    ours = collector.addresses["collector"]
    for query, count in (('{__name__=~"cmp_.*"}', 18), ('target_info{job="ns/svc"}', 1)):
        wanted = collector.until(lambda query=query: ask(prometheus, query))
        assert collector.until(lambda query=query: ask(ours, query)) == wanted
        assert len(wanted) == count


def _request() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    identity = {"service.name": "svc", "service.namespace": "ns", "service.instance.id": "i-1"}
    for key, value in {**identity, "host.name": "h", "cloud.zone": "z"}.items():
        group.resource.attributes.add(key=key).value.string_value = value
    scope = group.scope_metrics.add()
    now = time.time_ns()

    def add(name: str, unit: str, kind: str, *, monotonic: bool = False, **fields: Any) -> Any:
        metric = scope.metrics.add(name=name, unit=unit)
        data = getattr(metric, kind)
        if kind in ("sum", "histogram"):
            data.aggregation_temporality = 2
        if monotonic:
            data.is_monotonic = True
        point = data.data_points.add(time_unix_nano=now, **fields)
        for key, text in {"http.route": "/x", "1digit": "5", "a__b": "c"}.items():
            point.attributes.add(key=key).value.string_value = text
        return point

    add("cmp.gauge", "1", "gauge", as_double=2.5)
    add("cmp.mem.usage", "By", "gauge", as_int=7)
    add("cmp.req", "{request}", "sum", as_int=5, monotonic=True)
    add("cmp.time", "s", "sum", as_double=5.25, monotonic=True)
    add("cmp.conn", "", "sum", as_int=4)
    add("cmp.rate", "By/s", "gauge", as_double=1)
    add("cmp.per", "{x}/min", "gauge", as_double=1)
    add("cmp.total.count", "1", "sum", as_int=1, monotonic=True)
    add("cmp.lat", "ms", "histogram", count=6, sum=10.5, bucket_counts=[1, 2, 3], explicit_bounds=[0.005, 10])
    summary = add("cmp.sm", "s", "summary", count=3, sum=4.5)
    for quantile in (0.5, 0.99, 1):
        summary.quantile_values.add(quantile=quantile, value=quantile * 2)
    return request
