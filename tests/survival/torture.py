"""A store is tortured and killed, round after round, and its ledger checked against what comes back.

    python tests/survival/torture.py FOLDER ROUNDS SEED

Each round forks a child that opens the store, tells everything that is in it, and then stores numbered requests of two
agents, with repetitions and swapped order, while its clock jumps and its disk fills up; it tells each acknowledgement. The
parent stops and kills it at any instant, damages the journal's tail, and compares what the next child tells:

- acknowledged is stored, and nothing that was never sent;
- nothing is there twice;
- positions and times of receipt only ever rise, and so do the high-water marks.

A flipped bit in a commit that was acknowledged cannot be made good: it may cost the request that it lies in, no more, and
that one must be named. The last line is a summary as JSON; exit code 1 on the first violation, with the folder left as it was.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from misstep.core.clock import SystemClock
from misstep.core.errors import StorageError
from misstep.core.settings import StoreSettings
from misstep.store.request import Batch
from misstep.store.store import Store

AGENTS = ("a", "b")
LIVES = 20
"""Rounds after which a folder has been checked often enough and a new one begins."""
PATIENCE = 120.0
FLIP_COSTS = 1
"""Requests that one damaged page of 4 KiB may hold parts of: they are too large for two."""
_SECOND = 1_000_000_000


class JumpingClock(SystemClock):
    """The machine's clock as bad hands set it: minutes to and fro."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._offset = 0

    def now(self) -> int:
        if self._chance.random() < 0.02:
            self._offset = self._chance.randint(-300, 300) * _SECOND
        return super().now() + self._offset


def body(agent: str, number: int, chance: random.Random) -> tuple[str, bytes]:
    """Signal and bytes of a request: even numbers are a point, odd ones a line, which also says who it is."""
    if number % 2 == 0:
        request = ExportMetricsServiceRequest()
        metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
        point = metric.gauge.data_points.add(time_unix_nano=number + 1, as_double=float(number))
        point.attributes.add(key="agent").value.string_value = agent
        metric.description = chance.randbytes(1500).hex()
        return "metrics", bytes(request.SerializeToString())
    lines = ExportLogsServiceRequest()
    record = lines.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=number)
    record.body.string_value = f"{agent} {number} {chance.randbytes(1500).hex()}"
    return "logs", bytes(lines.SerializeToString())


def live(folder: Path, seed: int, out: int) -> None:
    """One life of the store, until it is killed."""
    chance = random.Random(seed)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def tell(**what: Any) -> None:
        os.write(out, (json.dumps(what) + "\n").encode())

    settings = StoreSettings(
        seal_interval=chance.choice([0.05, 0.3, 3600.0]), hot_bytes=chance.choice([0, 1 << 20, 1 << 30])
    )
    store = Store.open(folder, settings, clock=JumpingClock(chance))
    marks = {agent: mark.agent_seq for (agent, _), mark in store._commit._journal.marks.items()}
    tell(
        **stored(store),
        marks=marks,
        counts={k: v for k, v in store.stats().items() if k.startswith("journal_")},
    )
    if chance.random() < 0.3:
        threading.Thread(target=fill_disk, args=(chance,), daemon=True).start()
    senders = [
        threading.Thread(
            target=send, args=(store, agent, marks.get(agent, 0), random.Random(f"{seed}{agent}"), tell)
        )
        for agent in AGENTS
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def stored(store: Store) -> dict[str, Any]:
    """Everything that is there, in journal order."""
    view = store.view()
    lines = [(row.seq, row.received, *row.body.split(" ")[:2]) for row in view.logs()]
    points = view.ask(
        "SELECT s.seq, r.received, d.agent, s.value FROM {samples} s JOIN {requests} r USING (seq) JOIN "
        "(SELECT DISTINCT series_id, labels['agent'] AS agent FROM {series}) d USING (series_id)"
    )
    found = [(seq, received, agent, int(number)) for seq, received, agent, number in (*lines, *points)]
    return {"stored": sorted(found)}


def send(store: Store, agent: str, last: int, chance: random.Random, tell: Any) -> None:
    """Send without end, a few at a time; now and then twice, now and then in the wrong order."""
    while True:
        numbers = list(range(last + 1, last + 1 + chance.randint(1, 4)))
        if chance.random() < 0.1:
            chance.shuffle(numbers)
        if last and chance.random() < 0.3:
            numbers.insert(chance.randint(0, len(numbers)), chance.randint(1, last))
        waiting = []
        for number in numbers:
            kind, data = body(agent, number, chance)
            tell(sent=(agent, number))
            waiting.append((number, store.append(Batch(kind, data, "", agent, "boot", number), data)))
        for number, future in waiting:
            try:
                receipt = future.result()
            except StorageError:
                time.sleep(0.01)
                continue
            if not receipt.duplicate:
                tell(acknowledged=(agent, number), seq=receipt.seq, received=receipt.received)
            last = max(last, number)


def fill_disk(chance: random.Random) -> None:
    """Let the kernel refuse to let files grow, for moments."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    while True:
        time.sleep(chance.uniform(0, 0.2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (chance.choice([4096, 60_000, 200_000]), hard))
        time.sleep(chance.uniform(0, 0.1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Ledger:
    """What one folder must hold."""

    def __init__(self) -> None:
        self.sent: set[tuple[str, int]] = set()
        self.acknowledged: dict[tuple[str, int], tuple[int, int]] = {}
        self.marks: dict[str, int] = {}
        self.flips = 0
        self.heard = 0

    def hear(self, word: dict[str, Any]) -> None:
        """Take down what a child says."""
        if "sent" in word:
            self.sent.add(tuple(word["sent"]))
        elif "acknowledged" in word:
            self.acknowledged[tuple(word["acknowledged"])] = (word["seq"], word["received"])
            self.heard += 1

    def check(self, word: dict[str, Any], quarantine: Path) -> list[str]:
        """What is wrong with what a new life has found."""
        rows = [((agent, number), (seq, received)) for seq, received, agent, number in word["stored"]]
        found = dict(rows)
        wrong = [f"{key} is there {n} times" for key, n in Counter(key for key, _ in rows).items() if n > 1]
        lost = {key: where for key, where in self.acknowledged.items() if found.get(key) != where}
        # The life that rescued what was whole may have been killed before it could tell; what it put aside stays.
        named = {int(line) for path in quarantine.glob("*.lost") for line in path.read_text().split()}
        if len(lost) <= FLIP_COSTS * self.flips and {seq for seq, _ in lost.values()} <= named:
            for key in lost:
                del self.acknowledged[key]
        else:
            wrong += [
                f"{key} was acknowledged as {where}, found {found.get(key)}" for key, where in lost.items()
            ]
        wrong += [f"{key} was never sent" for key in found.keys() - self.sent]
        order = [where for _, where in sorted(rows, key=lambda row: row[1])]
        wrong += [f"{b} follows {a}" for a, b in pairwise(order) if not a[0] < b[0] or not a[1] < b[1]]
        wrong += [
            f"the mark of {agent} fell from {mark} to {word['marks'].get(agent)}"
            for agent, mark in self.marks.items()
            if word["marks"].get(agent, 0) < mark and not self.flips
        ]
        self.marks = dict(word["marks"])
        # What came through without an acknowledgement stays from now on.
        self.acknowledged.update(found)
        self.flips = 0
        return wrong


def damage(folder: Path, chance: random.Random, ledger: Ledger, done: Counter[str]) -> None:
    """Do to the newest log what a power cut and a bad disk do."""
    logs = sorted((folder / "journal").glob("*-wal"))
    if not logs:
        return
    log, kind = logs[-1], chance.choice(["nothing", "zeroes", "noise", "torn", "flip"])
    data = log.read_bytes()
    if kind == "flip" and not data:
        kind = "nothing"
    done[kind] += 1
    if kind == "flip":
        at = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        log.write_bytes(flipped)
        ledger.flips += 1
    elif kind != "nothing":
        tail = {"zeroes": bytes(4120), "noise": chance.randbytes(700), "torn": data[-4120:-1000]}[kind]
        with log.open("ab") as file:
            file.write(tail)


def round_(folder: Path, ledger: Ledger, chance: random.Random, done: Counter[str]) -> list[str]:
    """One life and its end; what was found wrong at its beginning."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            live(folder, chance.randrange(1 << 30), write)
        finally:
            os._exit(3)
    os.close(write)
    try:
        return _watch(child, read, folder, ledger, chance, done)
    finally:
        os.close(read)


def _watch(
    child: int, read: int, folder: Path, ledger: Ledger, chance: random.Random, done: Counter[str]
) -> list[str]:
    early = chance.random() < 0.1
    wrong: list[str] = []
    begun = time.monotonic()
    deadline = begun + (chance.uniform(0, 1.5) if early else PATIENCE)
    pending, told = b"", False
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([read], [], [], left)
        data = os.read(read, 1 << 16) if ready else b""
        if ready and not data:
            wrong.append("the child ended by itself")
            break
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word = json.loads(line)
            if "stored" in word:
                told = True
                wrong += ledger.check(word, folder / "quarantine")
                done["checked"] += 1
                deadline = time.monotonic() + chance.uniform(0.0, 0.6)
                if chance.random() < 0.2:
                    os.kill(child, signal.SIGSTOP)
                    time.sleep(chance.uniform(0.0, 0.2))
                    os.kill(child, signal.SIGCONT)
                    done["stopped"] += 1
            else:
                ledger.hear(word)
    if not told and not early:
        wrong.append("the store did not open")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    # What it said before it died counts too.
    while data := os.read(read, 1 << 16):
        pending += data
    for line in pending.split(b"\n")[:-1]:
        word = json.loads(line)
        if "stored" not in word:
            ledger.hear(word)
    return wrong


def main(folder: Path, rounds: int, seed: int) -> int:
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    ledger = Ledger()
    started = time.monotonic()
    for number in range(rounds):
        if number % LIVES == 0:
            shutil.rmtree(folder, ignore_errors=True)
            ledger = Ledger()
        wrong = round_(folder, ledger, chance, done)
        if wrong:
            print(f"round {number} of seed {seed}: " + "; ".join(wrong[:10]), flush=True)
            return 1
        damage(folder, chance, ledger, done)
        done["acknowledged"] += ledger.heard
        ledger.heard = 0
        if number % 50 == 49:
            print(f"{number + 1} rounds, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps({"rounds": rounds, "seconds": round(time.monotonic() - started), **done}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
