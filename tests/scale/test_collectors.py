"""Two real collectors that write one lake at once, a third that reads; one is killed in the middle of a seal."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

PATIENCE = 90.0
Start = Callable[..., "Member"]


class Member:
    """A collector as a process of its own, on ports that stay the same over restarts."""

    def __init__(self, folder: Path, port: int, environ: dict[str, str]) -> None:
        self.data, self.port, self.environ = folder, port, environ
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "misstep.collector", "--data", str(self.data)]
        with self.data.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--otlp-port", "0"],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environ},
            )
        self.until(lambda: self.ask("/readyz") is not None)

    def kill(self, number: int = signal.SIGKILL) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, self.data.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.1)
        return found

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[bytes, str] | None:
        """Body and what is missing of a 200; None while there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request("POST" if body is not None else "GET", path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException):
                return None
            return (data, answer.headers.get("Misstep-Partial", "")) if answer.status == 200 else None

    def lines(self) -> tuple[Counter[str], str] | None:
        """All log lines, and who is missing."""
        found: Counter[str] = Counter()
        partial, cursor = "", ""
        while True:
            answer = self.ask(f"/api/misstep/v1/logs?limit=10000{cursor}")
            if answer is None:
                return None
            page = json.loads(answer[0])
            found.update(row["body"] for row in page["logs"])
            partial = partial or answer[1]
            if page["cursor"] is None:
                return found, partial
            cursor = f"&cursor={page['cursor']}"

    def metric(self, name: str) -> float:
        answer = self.ask("/metrics")
        rows = answer[0].decode().splitlines() if answer else []
        return next((float(row.split()[1]) for row in rows if row.startswith(f"{name} ")), 0.0)


class Sender(threading.Thread):
    """An agent that writes down what was acknowledged; doubts are sent again."""

    def __init__(self, member: Member, name: str) -> None:
        super().__init__(daemon=True)
        self.member, self.agent = member, name
        self.acknowledged: list[str] = []
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            request = ExportLogsServiceRequest()
            scope = request.resource_logs.add().scope_logs.add()
            texts = [f"{self.agent} {number} {i}" for i in range(20)]
            for text in texts:
                scope.log_records.add(time_unix_nano=time.time_ns()).body.string_value = text
            headers = {
                "Content-Type": "application/x-protobuf",
                "Misstep-Agent": self.agent,
                "Misstep-Boot": "one",
                "Misstep-Seq": str(number),
            }
            while self.member.ask("/v1/logs", request.SerializeToString(), **headers) is None:
                time.sleep(0.05)
            self.acknowledged += texts
            time.sleep(0.02)

    def end(self) -> None:
        self._ended.set()
        self.join(PATIENCE)
        assert not self.is_alive()


@pytest.fixture
def start(tmp_path: Path, database: str, s3: dict[str, str], free_port: Callable[[], int]) -> Iterator[Start]:
    members: list[Member] = []

    def started(name: str, **settings: str) -> Member:
        environ = {
            **s3,
            "MISSTEP_STORE_CATALOG": database,
            "MISSTEP_STORE_DATA": f"s3://lake/{tmp_path.name}",
            "MISSTEP_STORE_SEAL_INTERVAL": "0.5",
            "MISSTEP_STORE_HOT_BYTES": "0",
        }
        member = Member(tmp_path / name, free_port(), environ | settings)
        members.append(member)
        member.start()
        return member

    yield started
    for member in members:
        member.kill(signal.SIGTERM)


def killed_in_a_seal(member: Member, catalog: str, chance: random.Random) -> bool:
    """Kill a collector while it holds the lock of seals; whether it did hold it."""
    import psycopg

    with psycopg.connect(catalog, autocommit=True) as db:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            row = db.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 0 AND granted"
            ).fetchone()
            if row and row[0]:
                time.sleep(chance.uniform(0, 0.2))
                member.kill()
                return True
            time.sleep(0.005)
    return False


def survive(start: Start, database: str, kills: int, chance: random.Random) -> None:
    first, second, reader = start("first"), start("second"), start("reader")
    senders = [Sender(first, "x"), Sender(second, "y")]
    for sender in senders:
        sender.start()
    first.until(lambda: second.metric("misstep_store_seals_total") >= 2)
    for _ in range(kills):
        assert killed_in_a_seal(second, database, chance)
        answer = reader.until(lambda: (found := reader.lines()) and found[1] and found)
        assert "collector" in answer[1], "the reader knows that its answer is partial"
        assert max(answer[0].values()) == 1, "nothing is there twice"
        told = reader.until(lambda: reader.ask("/api/v1/query?query=1"))
        assert "partial answer" in json.loads(told[0])["warnings"][0]
        second.start()
    for sender in senders:
        sender.end()
    expected = Counter(text for sender in senders for text in sender.acknowledged)

    def whole() -> bool:
        found = reader.lines()
        return found is not None and not found[1] and set(expected) <= set(found[0])

    reader.until(whole)
    for member in (first, second, reader):
        found = member.until(member.lines)
        assert found == (expected, ""), "each sees everything once, whoever received it"
    assert first.metric("misstep_store_seal_errors_total") == 0


@pytest.mark.timeout(400)
def test_a_kill_in_the_middle_of_a_seal_loses_and_doubles_nothing(start: Start, database: str) -> None:
    survive(start, database, 1, random.Random(3))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills_in_the_middle_of_a_seal(start: Start, database: str) -> None:
    survive(start, database, 30, random.Random())
