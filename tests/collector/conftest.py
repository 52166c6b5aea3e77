"""A real collector in a process of its own, on any free ports, and the requests that tests send to it."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

PROTOBUF = "application/x-protobuf"
SESSION = "local/ray/ray/2026-11-20_09-49-30_276594_21621"
START_SECONDS = 30.0


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Collector:
    """`python -m misstep.collector` on one data folder."""

    def __init__(self, data: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.arguments = arguments
        self.environ = {**os.environ, **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.addresses: dict[str, Any] = {}
        self.log = data.parent / f"{data.name}.log"

    def start(self) -> Collector:
        ready = self.data.parent / f"{self.data.name}.ready"
        ready.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "misstep.collector",
            "--data",
            str(self.data),
            "--ready-file",
            str(ready),
        ]
        ports = ["--port", "0", "--otlp-port", "0", "--grpc-port", "0"]
        ports = [] if "--port" in self.arguments else ports
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *ports, *self.arguments], stderr=log, env=self.environ)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no collector: {self.log.read_text()}")
            time.sleep(0.02)
        self.addresses = json.loads(ready.read_text())
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(60)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        otlp: bool = False,
        timeout: float = 20,
    ) -> Answer:
        parts = urlsplit(self.addresses["otlp" if otlp else "collector"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def send(
        self,
        message: Any,
        headers: Mapping[str, str] | None = None,
        *,
        compress: bool = True,
        otlp: bool = False,
    ) -> Answer:
        """POST an export request."""
        signal = "metrics" if isinstance(message, ExportMetricsServiceRequest) else "logs"
        body = message.SerializeToString()
        encoding = {"Content-Encoding": "gzip"} if compress else {}
        sent = {"Content-Type": PROTOBUF, **encoding, **(headers or {})}
        return self.request(
            "POST", f"/v1/{signal}", gzip.compress(body, 1) if compress else body, sent, otlp=otlp
        )

    def ask(self, path: str, **query: object) -> Any:
        """GET of our API; anything but 200 fails."""
        target = f"/api/misstep/v1/{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        answer = self.request("GET", target)
        assert answer.status == 200, answer.body
        return answer.json()

    def metrics(self) -> dict[str, float]:
        """The samples of ``/metrics`` by name and labels."""
        lines = self.request("GET", "/metrics").body.decode().splitlines()
        return {
            n: float(v) for n, _, v in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }

    def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Wait for something to become true, and give it back."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.05)
        return found


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Collector]]:
    """Starts collectors, and ends them with the test."""
    started: list[Collector] = []

    def start(
        *arguments: str, data: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> Collector:
        collector = Collector(data or tmp_path / f"data{len(started)}", *arguments, environ=environ)
        started.append(collector)
        return collector.start()

    yield start
    for collector in started:
        with contextlib.suppress(ProcessLookupError):
            collector.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One collector for the tests of a module; they must not depend on what others sent."""
    started = Collector(tmp_path_factory.mktemp("collector") / "data").start()
    yield started
    assert started.stop() == 0, started.log.read_text()


class Otlp:
    """Builds export requests."""

    SESSION = SESSION

    @staticmethod
    def logs(*records: Mapping[str, Any], host: str = "node-1") -> ExportLogsServiceRequest:
        """Each record: event, ts, body, severity, and attributes."""
        request = ExportLogsServiceRequest()
        group = request.resource_logs.add()
        _attributes(
            group.resource.attributes,
            {"service.name": "misstep-agent", "host.name": host, "host.id": "5f1c9a"},
        )
        scope = group.scope_logs.add()
        for given in records:
            record = scope.log_records.add()
            record.time_unix_nano = given.get("ts", time.time_ns())
            record.observed_time_unix_nano = time.time_ns()
            record.event_name = given.get("event", "")
            record.severity_number = given.get("severity", 9)
            record.body.string_value = given.get("body", "")
            _attributes(record.attributes, given.get("attributes", {}))
        return request

    @classmethod
    def event(cls, name: str, entity: str = "", state: str = "", **attributes: Any) -> dict[str, Any]:
        """An event of `SESSION`."""
        found = {"misstep.session": cls.SESSION, "misstep.entity": entity, "misstep.state": state}
        found |= {key.replace("__", "."): value for key, value in attributes.items()}
        return {"event": name, "attributes": {k: v for k, v in found.items() if v != ""}}

    @staticmethod
    def gauge(name: str, points: list[Mapping[str, str]], value: float = 1.0) -> ExportMetricsServiceRequest:
        """One point for each set of labels."""
        request = ExportMetricsServiceRequest()
        group = request.resource_metrics.add()
        _attributes(group.resource.attributes, {"host.name": "node-1", "host.id": "5f1c9a"})
        metric = group.scope_metrics.add().metrics.add()
        metric.name = name
        now = time.time_ns()
        for labels in points:
            point = metric.gauge.data_points.add()
            point.time_unix_nano = now
            point.as_double = value
            _attributes(point.attributes, labels)
        return request


def _attributes(target: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        attribute = target.add()
        attribute.key = key
        if isinstance(value, int):
            attribute.value.int_value = value
        else:
            attribute.value.string_value = value


@pytest.fixture(scope="session")
def otlp() -> type[Otlp]:
    """The builder of export requests."""
    return Otlp
