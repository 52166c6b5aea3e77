"""What a sample costs on disk: the same OTLP requests into Misstep, Prometheus and VictoriaMetrics, each in its final form.

    python -m bench.at_rest [--samples 2500000] [--json FILE]

16,000 series at 1 Hz, a quarter each of two-decimal gauges, counters, constants and utilisation, one time for a node and
sweep, a few milliseconds off the second, in nanoseconds. Misstep seals every 30 sweeps and merges at the end; what is counted
is every file and row of the lake, journal positions and `requests` included. Prometheus is counted as the block that its
snapshot makes of the head, VictoriaMetrics after a forced flush and merge, with its index.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.agent import free_port
from bench.load import NODES, SERIES, Shape, otlp
from bench.peers import PROMETHEUS, VICTORIA, find, get, start, versions

from misstep.core.settings import StoreSettings
from misstep.store.request import Batch
from misstep.store.store import Store

SEAL_SWEEPS = 30
NARROW = "CPU ms, one metric"


def misstep(bodies: list[bytes], folder: Path, keep: Path | None = None) -> dict[str, float]:
    """Bytes of each table and of the catalog."""
    settings = StoreSettings(seal_interval=3600, seal_bytes=1 << 40, hot_bytes=0)
    store = Store.open(folder, settings)
    sweep = []
    for number, body in enumerate(bodies, 1):
        sweep.append(store.append(Batch("metrics", body, "", "bench", "boot", number), body))
        if number % NODES == 0:
            for waiting in sweep:
                waiting.result()
            sweep = []
        if number % (SEAL_SWEEPS * NODES) == 0:
            store.seal()
    store.seal()
    store.maintain()
    stats = store.stats()
    samples = store.view().ask("SELECT count(*) FROM {samples}")[0][0]
    columns = _columns(store)
    narrow = _narrow(store)
    store.close()
    if keep:
        shutil.copytree(folder / "lake" / "data", keep, dirs_exist_ok=True)
    found = {
        name.removeprefix("table_bytes."): size
        for name, size in stats.items()
        if name.startswith("table_bytes.")
    }
    found["files"] = sum(path.stat().st_size for path in (folder / "lake" / "data").rglob("*.parquet"))
    found["samples_stored"] = samples
    found[NARROW] = narrow
    return found | {f"column {name}": size for name, size in columns.items()}


def _narrow(store: Store) -> float:
    """CPU milliseconds to read all samples of one metric from the files: the median of all metrics, the best of three each."""
    db = store._lake._db
    metrics = [row[0] for row in db.execute("SELECT DISTINCT metric FROM lake.samples").fetchall()]
    costs = []
    for metric in metrics:
        tries = []
        for _ in range(3):
            begun = time.process_time()
            db.execute(
                "SELECT series_id, ts, value FROM lake.samples WHERE metric = ?", [metric]
            ).fetchnumpy()
            tries.append(time.process_time() - begun)
        costs.append(min(tries))
    return 1000 * statistics.median(costs)


def _columns(store: Store) -> dict[str, float]:
    files = [
        row[0]
        for row in store._lake._db.execute(
            "SELECT data_file FROM ducklake_list_files('lake', 'samples')"
        ).fetchall()
    ]
    rows = store._lake._db.execute(
        "SELECT path_in_schema, sum(total_compressed_size) FROM parquet_metadata(?) GROUP BY 1", [files]
    ).fetchall()
    return {str(name): float(size) for name, size in rows}


def victoria(bodies: list[bytes], binaries: dict[str, str], folder: Path) -> dict[str, float]:
    """Bytes of data and index."""
    with start(VICTORIA, binaries, folder) as server:
        _send(server.port, server.otlp, bodies)
        get(server.port, "/internal/force_flush")
        get(server.port, "/internal/force_merge")
        _settled(server.folder)
        data = server.folder / "data"
    # Its end writes what of the index is still in memory.
    index = _size(data / "indexdb")
    return {"data": _size(data) - index, "index": index}


def prometheus(bodies: list[bytes], binaries: dict[str, str], folder: Path) -> dict[str, float]:
    """Bytes of the block."""
    folder.mkdir()
    port = free_port()
    (folder / "prometheus.yml").write_text("global: {}\nstorage: {tsdb: {out_of_order_time_window: 30m}}\n")
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [
                binaries[PROMETHEUS], f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}", "--web.enable-otlp-receiver", "--web.enable-admin-api",
                "--storage.tsdb.retention.time=10y",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                if get(port, "/-/ready")[0] == 200:
                    break
            time.sleep(0.1)
        _send(port, "/api/v1/otlp/v1/metrics", bodies)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/api/v1/admin/tsdb/snapshot?skip_head=false")
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"Prometheus makes no snapshot: {answer.read()!r}")
        answer.read()
        return {"block": _size(folder / "data" / "snapshots")}
    finally:
        child.terminate()
        child.wait(60)


def _send(port: int, path: str, bodies: list[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for body in bodies:
        connection.request("POST", path, body, {"Content-Type": "application/x-protobuf"})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status not in (200, 204):
            raise SystemExit(f"{answer.status} {data[:300]!r}")
    connection.close()


def _settled(folder: Path) -> None:
    """Wait until its size has not changed for three seconds."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 3:
        size = _size(folder)
        if size != last:
            last, since = size, time.monotonic()
        time.sleep(0.3)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2_500_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="copy Misstep's files there")
    arguments = parser.parse_args()
    bodies = otlp(Shape(), arguments.samples)
    samples = len(bodies) * SERIES // NODES
    found: dict[str, Any] = {"samples": samples}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        binaries = find(Path(tempfile.gettempdir()))
        found["versions"] = versions(binaries)
        found["misstep"] = misstep(bodies, folder / "misstep", arguments.keep)
        if VICTORIA in binaries:
            found["victoria"] = victoria(bodies, binaries, folder / "victoria")
        if PROMETHEUS in binaries:
            found["prometheus"] = prometheus(bodies, binaries, folder / "prometheus")
    for system, sizes in found.items():
        if isinstance(sizes, dict) and system != "versions":
            for part, size in sizes.items():
                unit = "" if part == NARROW else f"  {size / samples:6.3f} B a sample"
                print(f"{system:12} {part:20} {size:14,.1f}{unit}")
    ours = found["misstep"]["files"] / samples
    for system in ("victoria", "prometheus"):
        if system in found:
            theirs = sum(found[system].values()) / samples
            print(f"Misstep {ours:.2f} B, {system} {theirs:.2f} B a sample: {ours / theirs:.2f} times")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
