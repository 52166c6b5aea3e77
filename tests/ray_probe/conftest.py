"""Parts for the tests of the Ray probes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.identity import Host
from misstep.agent.records import Records
from misstep.agent.spool import Spool
from misstep.agent.workload import Workload
from misstep.core.clock import SystemClock
from misstep.core.settings import AgentSettings, Settings

DATA = Path(__file__).parent.parent / "data" / "ray"
HOST = Host("3d1219c7c4c5404aaa1f6d2a48adfda4", "n1", "6ce5bd0205244c2fb0bd769691970735", "n1-3d1219c7c4c5")


class Read(NamedTuple):
    """A log record read back."""

    name: str
    body: str
    time: int
    severity: int
    attributes: dict[str, Any]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _read(payload: bytes | list[bytes]) -> list[Read]:
    held = ScopeLogs.FromString(payload if isinstance(payload, bytes) else b"".join(payload))
    return [
        Read(
            record.event_name,
            record.body.string_value,
            record.time_unix_nano,
            record.severity_number,
            {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in record.attributes},
        )
        for record in held.log_records
    ]


@pytest.fixture(scope="session")
def read() -> Callable[[bytes | list[bytes]], list[Read]]:
    """Framed log records → what they say."""
    return _read


@pytest.fixture
def sample() -> Callable[[str], Any]:
    """A captured answer of Ray, decoded."""

    def load(name: str) -> Any:
        text = (DATA / name).read_text()
        return json.loads(text) if name.endswith(".json") else text

    return load


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """An agent's parts with a real spool, and a receiver port that is free."""

    def gap(out: Records, kind: str, count: int, reason: str) -> None:
        out.event(
            "agent.gap",
            body=reason,
            attributes={"misstep.dropped": count, "misstep.dropped.kind": kind},
        )

    spool = Spool(str(tmp_path / "agent"), limit=256 << 20, age=3600.0, gap_event=gap)
    settings = replace(Settings(), data=tmp_path, agent=replace(AgentSettings(), receiver_port=0))
    workload = Workload(HOST.id, "local")
    yield Context(settings, HOST, spool, workload, Coverage(HOST.entity), SystemClock())
    spool.close()


@pytest.fixture
def spooled(context: Context) -> Callable[[], list[Read]]:
    """Everything that waits in the spool, events and lines; it stays there."""

    def take() -> list[Read]:
        found: list[Read] = []
        while (flight := context.spool.claim()) is not None:
            if flight.signal == "logs":
                found += _read(flight.payload)
            context.spool.settle(flight)
        return found

    return take
