"""What a request costs the collector: time to the answer after fsync, CPU per POST, memory.

run: python -m bench.collector [--seconds N]
A real collector on a data folder in /tmp (give TMPDIR for another disk), senders over kept connections.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

_HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
_TICKS = os.sysconf("SC_CLK_TCK")


def sweep(node: int, now: int, metrics: int = 40, labels: int = 8) -> bytes:
    """What an agent sends each second: 320 points, about 20 KB before compression."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    host = group.resource.attributes.add()
    host.key, host.value.string_value = "host.name", f"node-{node}"
    scope = group.scope_metrics.add()
    for m in range(metrics):
        metric = scope.metrics.add()
        metric.name = f"bench.metric_{m}"
        for device in range(labels):
            point = metric.gauge.data_points.add()
            point.time_unix_nano = now
            point.as_double = round(random.random() * 100, 2)
            label = point.attributes.add()
            label.key, label.value.string_value = "device", str(device)
    return bytes(request.SerializeToString())


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its ended children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Sender(threading.Thread):
    """Sends prepared bodies, one in flight, `rate` a second or as fast as it can."""

    def __init__(self, url: str, bodies: list[bytes], end: float, rate: float) -> None:
        super().__init__()
        self._parts = urlsplit(url)
        self._bodies = bodies
        self._end = end
        self._rate = rate
        self.latencies: list[float] = []

    def run(self) -> None:
        """Until the end."""
        connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port)
        due, i = time.perf_counter(), 0
        while time.monotonic() < self._end:
            start = time.perf_counter()
            connection.request("POST", "/v1/metrics", self._bodies[i % len(self._bodies)], _HEADERS)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"refused: {response.status}")
            self.latencies.append(time.perf_counter() - start)
            i += 1
            if self._rate:
                due += 1 / self._rate
                time.sleep(max(0.0, due - time.perf_counter()))
        connection.close()


def measure(pid: int, url: str, senders: int, rate: float, seconds: float) -> dict[str, float]:
    """One load."""
    now = time.time_ns()
    bodies = [[gzip.compress(sweep(s, now + i * 10**9), 1) for i in range(8)] for s in range(senders)]
    end = time.monotonic() + seconds
    before, started = cpu_seconds(pid), time.monotonic()
    threads = [Sender(url, b, end, rate) for b in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - started
    # What the requests leave to ingest belongs to their cost.
    time.sleep(1.0)
    cost = cpu_seconds(pid) - before
    times = sorted(t for thread in threads for t in thread.latencies)
    return {
        "senders": senders,
        "rate_each": rate,
        "requests_per_s": round(len(times) / elapsed, 1),
        "ack_p50_ms": round(times[len(times) // 2] * 1000, 2),
        "ack_p99_ms": round(times[int(len(times) * 0.99)] * 1000, 2),
        "cpu_us_per_post": round(cost / len(times) * 1e6),
        "points_per_cpu_s": round(len(times) * 320 / cost),
        "resident_mib": round(resident_mib(pid), 1),
    }


def main() -> None:
    """Print one JSON object per load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="misstep-bench-") as folder:
        ready = Path(folder) / "ready"
        command = [
            sys.executable,
            "-m",
            "misstep.collector",
            "--data",
            f"{folder}/data",
            "--ready-file",
            str(ready),
        ]
        process = subprocess.Popen([*command, "--port", "0", "--otlp-port", "0"], stderr=subprocess.DEVNULL)
        try:
            while not ready.exists():
                time.sleep(0.05)
            url = json.loads(ready.read_text())["otlp"]
            before, start = cpu_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            idle = (cpu_seconds(process.pid) - before) / (time.monotonic() - start)
            print(
                json.dumps(
                    {
                        "idle_core_percent": round(idle * 100, 2),
                        "resident_mib": round(resident_mib(process.pid), 1),
                    }
                )
            )
            for senders, rate in ((1, 1.0), (1, 0.0), (16, 0.0), (50, 1.0)):
                print(json.dumps(measure(process.pid, url, senders, rate, seconds)), flush=True)
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
