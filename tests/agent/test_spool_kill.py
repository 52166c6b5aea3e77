"""kill -9 at random instants: what was read is sent, once per (boot, number), without a hole."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

CHILD = """
import sys
from misstep.agent.records import Records
from misstep.agent.spool import Spool

folder, received = sys.argv[1:]
spool = Spool(folder, limit=1 << 26, age=3600, gap_event=lambda *a: None, host_boot="b")
log = open(received, "ab", buffering=0)
number = int(spool.cursor("source") or 0)
print("ready", flush=True)
while True:
    for _ in range(3):  # readings: each brings one event and moves the cursor past it
        out = Records(1)
        number += 1
        out.event("kernel.message", body=str(number))
        out.cursor("source", str(number))
        spool.commit([out])
    while (flight := spool.claim()) is not None:  # a collector that keeps a request in one write
        log.write(b"%s %d %s\\n" % (flight.boot.encode(), flight.seq, flight.payload.hex().encode()))
        spool.settle(flight)
"""


def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    received = tmp_path / "received"
    chance = random.Random(7)
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(received)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.08))
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
    # once more to send what the last kill left
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(received)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child.stdout:
        child.stdout.readline()
        time.sleep(0.2)
        os.kill(child.pid, signal.SIGKILL)
    child.wait()

    seen: dict[tuple[str, int], str] = {}
    order = []
    for row in received.read_text().splitlines():
        boot, seq, payload = row.split()
        key = (boot, int(seq))
        if (
            key in seen
        ):  # sent again after the kill: the collector knows it by its number, so it must be the same
            assert seen[key] == payload
            continue
        seen[key] = payload
        order.append(key)
    assert len({boot for boot, _ in order}) == 1
    assert order == sorted(order)
    bodies = [
        int(record.body.string_value)
        for payload in seen.values()
        for record in ScopeLogs.FromString(bytes.fromhex(payload)).log_records
    ]
    assert bodies == list(range(1, len(bodies) + 1))
    assert len(bodies) > 100
