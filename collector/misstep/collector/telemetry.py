"""What the collector counts of itself, in a registry of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from misstep.collector.refusal import REASONS

# When a counter was made says nothing here, and doubles the exposition.
disable_created_metrics()  # type: ignore[no-untyped-call]

SIGNALS = ("metrics", "logs", "traces", "remote_write")
_STORE_GAUGES = frozenset(
    {
        "journal_segments",
        "journal_bytes",
        "lake_bytes",
        "hot_bytes",
        "recent_bytes",
        "series_live",
        "position",
        "waiting_requests",
        "memory_bytes",
        "memory_limit_bytes",
        "spill_bytes",
        "disk_free_bytes",
        "neighbours_missing",
    }
)
_ACK_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Telemetry:
    """Counters of one collector. Every label takes values from a fixed list.

    Args:
        store_stats: what the store counts of itself, by name.
    """

    def __init__(self, store_stats: Callable[[], dict[str, float]] = dict) -> None:
        self.registry = CollectorRegistry()
        requests = Counter(
            "misstep_collector_requests",
            "requests that were acknowledged",
            ["signal"],
            registry=self.registry,
        )
        received = Counter(
            "misstep_collector_received_bytes",
            "bytes acknowledged, as sent",
            ["signal"],
            registry=self.registry,
        )
        duplicates = Counter(
            "misstep_collector_duplicates",
            "requests acknowledged again because an agent had sent them before",
            ["signal"],
            registry=self.registry,
        )
        rejected = Counter(
            "misstep_collector_rejected_items",
            "points, records and spans left out of requests that were taken",
            ["signal"],
            registry=self.registry,
        )
        refused = Counter(
            "misstep_collector_refused",
            "requests that were refused whole",
            ["reason"],
            registry=self.registry,
        )
        self.requests = {s: requests.labels(s) for s in SIGNALS}
        self.received = {s: received.labels(s) for s in SIGNALS}
        self.duplicates = {s: duplicates.labels(s) for s in SIGNALS}
        self.rejected = {s: rejected.labels(s) for s in SIGNALS}
        self.refused = {r: refused.labels(r) for r in REASONS}
        self.ack_seconds = Histogram(
            "misstep_collector_ack_seconds",
            "time from the last byte of a request to its answer",
            buckets=_ACK_BUCKETS,
            registry=self.registry,
        )
        self.body_bytes = Gauge(
            "misstep_collector_body_bytes", "bytes of bodies that are being received", registry=self.registry
        )
        self.ticks = Counter("misstep_collector_diagnosis_ticks", "seconds diagnosed", registry=self.registry)
        self.tick_failures = Counter(
            "misstep_collector_diagnosis_failures",
            "ticks whose diagnosis of a session raised; its incidents stayed as they were",
            registry=self.registry,
        )
        self.tick_seconds = Counter(
            "misstep_collector_diagnosis_seconds", "time spent in diagnosis", registry=self.registry
        )
        self.tick_lag_seconds = Gauge(
            "misstep_collector_diagnosis_lag_seconds",
            "age of the last diagnosed second",
            registry=self.registry,
        )
        self.registry.register(_Process())
        self.registry.register(_Store(store_stats))

    def text(self) -> bytes:
        """The Prometheus exposition format, version 0.0.4."""
        return generate_latest(self.registry)


class _Process:
    """CPU and memory of this process, under the names that Prometheus' own clients use."""

    def collect(self) -> Iterator[Metric]:
        times = os.times()
        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time, user and system", value=times.user + times.system
        )
        try:
            with open("/proc/self/statm", "rb") as file:
                pages = int(file.read().split()[1])
        except OSError:
            return
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "resident memory", value=pages * os.sysconf("SC_PAGE_SIZE")
        )


class _Store:
    """What the store counts of itself; ``dropped.<reason>`` has its reason as a label."""

    def __init__(self, stats: Callable[[], dict[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        dropped = CounterMetricFamily(
            "misstep_store_dropped_items", "points and records that were not stored", labels=["reason"]
        )
        tables = {
            kind: GaugeMetricFamily(
                f"misstep_store_{kind}", f"{what} of each table in the lake", labels=["table"]
            )
            for kind, what in (("table_bytes", "bytes"), ("table_files", "files"))
        }
        for name, value in sorted(self._stats().items()):
            kind, _, reason = name.partition(".")
            if kind == "dropped":
                dropped.add_metric([reason], value)
            elif kind in tables:
                tables[kind].add_metric([reason], value)
            elif name in _STORE_GAUGES:
                yield GaugeMetricFamily(f"misstep_store_{name}", "measured by the store", value=value)
            else:
                yield CounterMetricFamily(f"misstep_store_{name}", "counted by the store", value=value)
        yield dropped
        yield from tables.values()


class Stopwatch:
    """Seconds since it was made."""

    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Elapsed time."""
        return time.perf_counter() - self._start
