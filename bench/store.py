"""What storing costs: points per CPU-second of this process, and the time to the acknowledgement.

Requests as 50 nodes send them (40 metrics of 8 series, one point each, 60 bytes a point uncompressed) go through the
whole store: decode, limits, journal with fsync, hot tables, and a seal at the end. Run: ``python -m bench.store``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.core.settings import StoreSettings
from misstep.store.request import Batch, Receipt
from misstep.store.store import Store

NODES = 50
START = 1_700_000_000_000_000_000


def metrics_request(node: int, sweep: int, points: int) -> bytes:
    request = ExportMetricsServiceRequest()
    part = request.resource_metrics.add()
    part.resource.attributes.add(key="host.name").value.string_value = f"node-{node}"
    scope = part.scope_metrics.add()
    for number in range(40):
        metric = scope.metrics.add(name=f"hw.gpu.metric_{number}", unit="1")
        for gpu in range(8):
            for point in range(points):
                ts = START + (sweep * points + point) * 10**9
                added = metric.gauge.data_points.add(
                    time_unix_nano=ts, as_double=round((ts // 7) % 10**4 / 100, 2)
                )
                added.attributes.add(key="gpu").value.string_value = str(gpu)
                added.attributes.add(key="uuid").value.string_value = f"GPU-{node}-{gpu}"
    return bytes(request.SerializeToString())


def logs_request(node: int, sweep: int, lines: int) -> bytes:
    request = ExportLogsServiceRequest()
    part = request.resource_logs.add()
    part.resource.attributes.add(key="host.name").value.string_value = f"node-{node}"
    scope = part.scope_logs.add()
    for line in range(lines):
        record = scope.log_records.add(
            time_unix_nano=START + sweep * 10**9 + line, event_name="ray.task.lifecycle"
        )
        record.body.string_value = json.dumps(
            {"taskId": f"{node:04x}{sweep:06x}{line:06x}", "state": "RUNNING"}
        )
        for key, value in (
            ("misstep.session", "local/ray/ray/1"),
            ("misstep.entity", f"task/{node:04x}{sweep:06x}{line:06x}"),
            ("misstep.state", "RUNNING"),
            ("misstep.event.id", f"{node:04x}{sweep:06x}{line:06x}"),
            ("misstep.worker", f"ray_worker/{line % 32}"),
        ):
            record.attributes.add(key=key).value.string_value = value
    return bytes(request.SerializeToString())


def measure(
    name: str, signal: str, make: Callable[[int, int], bytes], items: int, sweeps: int, waiting: int
) -> None:
    """Send all requests with so many waiting at a time, and print one line."""
    requests = [make(node, sweep) for sweep in range(sweeps) for node in range(NODES)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder), StoreSettings(seal_interval=3600, seal_bytes=1 << 40))
        times: list[float] = []
        pending: list[tuple[float, Future[Receipt]]] = []

        def settle(limit: int) -> None:
            while len(pending) > limit:
                started, future = pending.pop(0)
                last = future.result().received
                times.append(time.perf_counter() - started)
                settle.last = last  # type: ignore[attr-defined]

        wall, cpu = time.perf_counter(), time.process_time()
        for number, body in enumerate(requests):
            pending.append(
                (time.perf_counter(), store.append(Batch(signal, body, "", "a", "b", number), body))
            )
            settle(waiting - 1)
        settle(0)
        while not store.ingested(settle.last + 1):  # type: ignore[attr-defined]
            time.sleep(0.005)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        sealing = time.process_time()
        store.seal()
        sealing = time.process_time() - sealing
        size = store.stats()["lake_bytes"]
        store.close()
    total = items * len(requests)
    times.sort()
    p50, p99 = (1000 * times[int(len(times) * q)] for q in (0.5, 0.99))
    print(
        f"{name:34} {total / cpu / 1000:8.0f} k items/CPU-s  {total / wall / 1000:8.0f} k items/s  "
        f"ack p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  seal {sealing:5.2f} CPU-s  lake {size / total:6.2f} B/item"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=20, help="requests of each node")
    sweeps = parser.parse_args().sweeps
    for waiting in (1, 8):
        measure(
            f"metrics, 1 point a series, {waiting} waiting",
            "metrics",
            lambda n, s: metrics_request(n, s, 1),
            320,
            sweeps,
            waiting,
        )
    measure(
        "metrics, 10 points a series, 8 waiting",
        "metrics",
        lambda n, s: metrics_request(n, s, 10),
        3200,
        max(2, sweeps // 4),
        8,
    )
    measure("events, 100 a request, 8 waiting", "logs", lambda n, s: logs_request(n, s, 100), 100, sweeps, 8)
    return 0


if __name__ == "__main__":
    sys.exit(main())
