"""A collector and an agent as real processes, a recorded Ray session to play to them, and a ledger of what was acknowledged."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from misstep.lab.household import free_ports

TAPE = Path(__file__).parents[1] / "data" / "survival" / "node_lost.jsonl"
SECOND = 1_000_000_000
_RECORDED = "session_2026-11-20_09-49-30_276594_21621"
_STAMP = re.compile(r'"(2026-11-20T[0-9:]{8})(?:\.(\d+))?Z"')
_CLUSTER = "tape"
_CHUNK = 3
_STEP = 0.03
_SPEED = 100
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z")
_PATIENCE = 120.0


class Tape:
    """The recorded session as if it happened now, a hundred times as fast and under a name of its own.

    Attributes:
        session: our name of it.
        chunks: events as Ray's aggregator posts them, a few at a time.
        size: events in all.
    """

    def __init__(self, number: int) -> None:
        events = [json.loads(line) for line in TAPE.read_text().splitlines()]
        name = f"{_RECORDED[:-5]}{number:05d}"
        for event in events:
            mark = hashlib.sha256(f"{number}/{event['eventId']}".encode()).digest()[:28]
            event["eventId"] = base64.b64encode(mark).decode()
            event["sessionName"] = name
        self.session = f"local/ray/{_CLUSTER}/{name.removeprefix('session_')}"
        self.chunks = [json.dumps(events[i : i + _CHUNK]) for i in range(0, len(events), _CHUNK)]
        self.size = len(events)

    def body(self, index: int) -> bytes:
        """A chunk whose last event happens now."""
        text, now = self.chunks[index], time.time_ns()
        last = max(_nanoseconds(match) for match in _STAMP.finditer(text))

        def moved(match: re.Match[str]) -> str:
            at = now - (last - _nanoseconds(match)) // _SPEED
            return f'"{datetime.fromtimestamp(at // SECOND, UTC):%Y-%m-%dT%H:%M:%S}.{at % SECOND:09d}Z"'

        return _STAMP.sub(moved, text).encode()


def _nanoseconds(match: re.Match[str]) -> int:
    whole = datetime.fromisoformat(match[1] + "+00:00").timestamp()
    return int(whole) * SECOND + int(((match[2] or "0") + "0" * 9)[:9])


class Household:
    """Both processes on one folder and ports that stay the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.ray = folder / "ray"
        self.ray.mkdir(parents=True)
        self.log = folder / "log"
        self.collector_port, self.agent_port, otlp_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.collector_port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments = {
            "collector": [
                "--data",
                str(self.data),
                "--port",
                str(self.collector_port),
                "--otlp-port",
                str(otlp_port),
            ],
            "agent": ["--data", str(self.data), "--collector", self.url, "--port", str(self.agent_port)],
        }

    def start(self, name: str) -> None:
        environ = {**os.environ, "MISSTEP_AGENT_RAY_FOLDER": str(self.ray)}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", f"misstep.{name}", *self._arguments[name]]
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in ("agent", "collector"):
            process = self._processes.pop(name, None)
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def play(self, tape: Tape, strike: Callable[[int], None] = lambda index: None) -> None:
        """Post a tape to the agent as Ray does: what was not answered is posted again.

        Args:
            tape: what to post.
            strike: called with each chunk's number before it is posted.
        """
        self.announce(tape)
        for index in range(len(tape.chunks)):
            strike(index)
            self._until(functools.partial(self._post, tape.body(index)))
            time.sleep(_STEP)

    def announce(self, tape: Tape) -> None:
        """The record of a session's start, which an agent makes of processes that are not there in a replay."""
        request = ExportLogsServiceRequest()
        record = request.resource_logs.add().scope_logs.add().log_records.add()
        record.event_name = "session.start"
        record.time_unix_nano = time.time_ns() - 30 * SECOND
        for key, value in (("misstep.session", tape.session), ("misstep.entity", f"session/{tape.session}")):
            attribute = record.attributes.add()
            attribute.key, attribute.value.string_value = key, value
        body = request.SerializeToString()
        self._until(lambda: self._send(f"{self.url}/v1/logs", body, "application/x-protobuf"))

    def _post(self, chunk: bytes) -> bool:
        return self._send(
            f"http://127.0.0.1:{self.agent_port}/v1/ray/{_CLUSTER}/events", chunk, "application/json"
        )

    @staticmethod
    def _send(url: str, body: bytes, kind: str) -> bool:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, {"Content-Type": kind}), timeout=10
            ) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, path: str, **query: object) -> Any:
        """GET of the API; None while nobody answers."""
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/misstep/v1/{path}?{urlencode(query)}", timeout=20
            ) as answer:
                return json.load(answer)
        except (OSError, http.client.HTTPException):
            return None

    def stored(self, tape: Tape) -> list[tuple[str, str, str, str]]:
        """The events of a tape that are in the store, times aside."""
        answer = self.ask("logs", session=tape.session, limit=10000, plain="false")
        return sorted(
            (row["event"], row["entity"], row["state"], _TIME.sub("", row["body"]))
            for row in (answer or {"logs": []})["logs"]
            if row["attributes"].get("misstep.source") == "ray_events"
        )

    def verdict(self, tape: Tape) -> dict[str, Any]:
        """The one incident of a tape, once all evidence is in."""

        def look() -> Any:
            answer = self.ask("incidents", session=tape.session)
            return answer if answer and answer["settled"] and answer["incidents"] else None

        (incident,) = self._until(look)["incidents"]
        return dict(incident)

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait for something to become true, and give it back."""
        return self._until(condition)

    def _until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)
        return found


class Ledger(threading.Thread):
    """A sender with an agent's headers that writes down what was acknowledged; doubts are sent again."""

    SESSION = "local/ray/ledger/1"

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._port = int(url.rpartition(":")[2])
        self._ended = threading.Event()
        self.acknowledged: list[int] = []
        self.doubts = 0

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            while not self._sent(number):
                self.doubts += 1
                time.sleep(0.02)
            self.acknowledged.append(number)
            time.sleep(_STEP)

    def end(self) -> None:
        """Stop after the record that is on its way was acknowledged."""
        self._ended.set()
        self.join(_PATIENCE)
        assert not self.is_alive()

    def _sent(self, number: int) -> bool:
        request = ExportLogsServiceRequest()
        record = request.resource_logs.add().scope_logs.add().log_records.add()
        record.time_unix_nano = time.time_ns()
        record.body.string_value = str(number)
        attribute = record.attributes.add()
        attribute.key, attribute.value.string_value = "misstep.session", self.SESSION
        headers = {
            "Content-Type": "application/x-protobuf",
            "Misstep-Agent": "ledger",
            "Misstep-Boot": "one",
            "Misstep-Seq": str(number),
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/v1/logs", request.SerializeToString(), headers)
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    """Both processes, started, and ended with the test."""
    made = Household(tmp_path)
    made.start("collector")
    made.start("agent")
    yield made
    made.stop()


@pytest.fixture
def tapes() -> Callable[[], Tape]:
    """Makes tapes, each of another session."""
    numbers = iter(range(1, 100_000))
    return lambda: Tape(next(numbers))


@pytest.fixture
def ledger(household: Household) -> Iterator[Ledger]:
    """A sender that runs beside the agent."""
    made = Ledger(household.url)
    made.start()
    yield made
    made._ended.set()
