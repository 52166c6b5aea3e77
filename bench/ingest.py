"""Ingest beside Prometheus and VictoriaMetrics: the same bodies into each, in turn, several times.

run: python -m bench.ingest [--points N] [--runs N] [--only TEXT] [--json FILE]

Sixteen senders keep one request each in flight. What counts is the server's time on a processor, with all that it does
until 3 s after the last answer, and until everything is sealed: Misstep seals every 10 s here, so that it happens within
the measurement, and every 30 s by default. Misstep has synced a request to disk before it answers; the peers sync later.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bench import load, peers
from bench.load import Shape

_SENDERS = 16
_SETTLE = 3.0
_ENVIRONMENT = {"MISSTEP_STORE_SEAL_INTERVAL": "10"}
_CASES: dict[str, Shape | None] = {
    str(shape): shape
    for shape in (
        Shape(1), Shape(1, gzip=True), Shape(10), Shape(10, gzip=True), Shape(1, churn=True), Shape(10, churn=True),
    )
}  # fmt: skip
_CASES["remote write, 1 sample per series and request"] = None


class Result(NamedTuple):
    """One run of one server."""

    points_per_cpu_second: float
    wall: float
    p50: float
    p99: float
    memory: float
    bytes_per_point: float


def bodies_of(name: str, points: int) -> tuple[list[bytes], bytes]:
    """Bodies of a case and their headers."""
    shape = _CASES[name]
    if shape is None:
        head = b"Content-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\nX-Prometheus-Remote-Write-Version: 0.1.0\r\n"
        return load.remote_write(points), head
    zipped = b"Content-Encoding: gzip\r\n" if shape.gzip else b""
    return load.otlp(shape, points), b"Content-Type: application/x-protobuf\r\n" + zipped


def run(server: peers.Server, path: str, bodies: list[bytes], head: bytes, points: int) -> Result:
    """Send everything and measure."""
    latencies: list[list[float]] = [[] for _ in range(_SENDERS)]
    errors: list[str] = []
    threads = [
        threading.Thread(target=_send, args=(server.port, path, bodies[i::_SENDERS], head, latencies[i], errors))
        for i in range(_SENDERS)
    ]  # fmt: skip
    before, started = server.cpu(), time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.monotonic() - started
    if errors:
        raise SystemExit(f"{server.name}: {errors[0]}")
    server.flush()
    time.sleep(_SETTLE)
    cost = server.cpu() - before
    times = sorted(t for own in latencies for t in own)
    return Result(
        points / cost, wall, times[len(times) // 2], times[int(len(times) * 0.99)], server.memory(), server.disk() / points,
    )  # fmt: skip


def _send(
    port: int, path: str, bodies: list[bytes], head: bytes, latencies: list[float], errors: list[str]
) -> None:
    """Plain sockets: the sender shares the machine and must not weigh more than what it measures."""
    with socket.create_connection(("127.0.0.1", port)) as held:
        held.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + head
        for body in bodies:
            started = time.perf_counter()
            held.sendall(first + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = held.recv(65536)
            latencies.append(time.perf_counter() - started)
            if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204")):
                errors.append(answer[:500].decode("utf-8", "replace"))
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--points", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--servers", default=f"{peers.MISSTEP},{peers.VICTORIA},{peers.PROMETHEUS}", help="comma-separated"
    )
    parser.add_argument("--json", type=Path, help="write all raw figures to this file")
    options = parser.parse_args()
    raw: dict[str, dict[str, list[Result]]] = {}
    with tempfile.TemporaryDirectory(prefix="misstep-bench-") as held:
        folder = Path(held)
        binaries = peers.find(folder)
        names = [n for n in options.servers.split(",") if n == peers.MISSTEP or n in binaries]
        print(
            f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}; {peers.versions(binaries)}"
        )
        for case in [case for case in _CASES if options.only in case]:
            bodies, head = bodies_of(case, options.points)
            print(
                f"\n{case}: {options.points:,} points in {len(bodies):,} requests of {sum(map(len, bodies)) // len(bodies):,} bytes",
                flush=True,
            )
            results = raw[case] = {name: [] for name in names}
            for number in range(options.runs):
                for name in names:
                    place = folder / f"{name}-{number}-{len(raw)}"
                    with peers.start(name, binaries, place, _ENVIRONMENT) as server:
                        path = server.write if _CASES[case] is None else server.otlp
                        results[name].append(run(server, path, bodies, head, options.points))
            _print(results)
    if options.json:
        options.json.write_text(
            json.dumps(
                {c: {n: [r._asdict() for r in rs] for n, rs in by.items()} for c, by in raw.items()}, indent=1
            )
        )
    return 0


def _print(results: dict[str, list[Result]]) -> None:
    base = _median(results.get(peers.VICTORIA, []), "points_per_cpu_second")
    for name, runs in results.items():
        own = _median(runs, "points_per_cpu_second")
        ratio = f", {own / base:.2f} of VictoriaMetrics" if base and name != peers.VICTORIA else ""
        spread = f"{min(r.points_per_cpu_second for r in runs) / 1e6:.2f}-{max(r.points_per_cpu_second for r in runs) / 1e6:.2f}"
        print(
            f"  {name:17} {own / 1e6:.2f} M points per CPU-second ({spread}{ratio}), wall {_median(runs, 'wall'):.1f} s, "
            f"answer p50 {_median(runs, 'p50') * 1e3:.1f} ms, p99 {_median(runs, 'p99') * 1e3:.1f} ms, "
            f"{_median(runs, 'memory'):.0f} MiB, {_median(runs, 'bytes_per_point'):.1f} B a point on disk",
            flush=True,
        )


def _median(runs: list[Result], field: str) -> float:
    return statistics.median(getattr(r, field) for r in runs) if runs else 0.0


if __name__ == "__main__":
    sys.exit(main())
