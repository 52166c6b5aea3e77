"""What one collector's seal costs on a shared catalog, for the arithmetic of docs/scale.md.

    python -m bench.scale --catalog 'host=127.0.0.1 port=5432 user=misstep dbname=bench' [--data s3://bucket/prefix]

Fills a collector with the samples of 30 s of 50 nodes (320 series each, 1 Hz), then times what is serialised between
collectors (a seal's turn), what a neighbour is told, and what unsealed rows take in memory. The database must be empty.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench.load import METRICS, NODES, Shape, otlp

from misstep.collector.neighbours import told
from misstep.core.settings import StoreSettings
from misstep.store.request import Batch
from misstep.store.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--data", default="")
    parser.add_argument("--seconds", type=int, default=30, help="that a seal holds")
    parser.add_argument("--seals", type=int, default=5)
    arguments = parser.parse_args()
    bodies = otlp(Shape(), arguments.seconds * NODES * METRICS * 8)
    samples = len(bodies) * METRICS * 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = StoreSettings(
            seal_interval=3600,
            seal_bytes=1 << 40,
            catalog=arguments.catalog,
            data=arguments.data or str(folder / "files"),
        )
        store = Store.open(folder / "own", settings)
        number = 0
        for turn in range(arguments.seals):
            cpu, memory = time.process_time(), store.stats()["memory_bytes"]
            futures = []
            for body in bodies:
                number += 1
                futures.append(store.append(Batch("metrics", body, "", "bench", "boot", number), body))
            last = [future.result() for future in futures][-1]
            while not store.ingested(last.received + 1):
                time.sleep(0.01)
            ingest = time.process_time() - cpu
            held = store.stats()["memory_bytes"] - memory
            asked = time.perf_counter()
            answer = len(told(store, b"after=%d" % store._lake.position()[0]))
            asked = time.perf_counter() - asked
            wall, cpu = time.perf_counter(), time.process_time()
            store.seal()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            print(
                f"{turn}: {samples:,} samples, ingest {ingest:.2f} CPU-s, {held / samples:.0f} B in memory a sample, "
                f"told in {asked:.2f} s as {answer / samples:.1f} B a sample, seal {wall:.2f} s ({cpu:.2f} CPU-s)",
                flush=True,
            )
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
