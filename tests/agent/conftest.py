"""Parts of an agent for tests: everything real but the clock where a test sets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.identity import Host
from misstep.agent.records import Records
from misstep.agent.series import Sheet
from misstep.agent.spool import Spool
from misstep.agent.workload import Workload
from misstep.core import names
from misstep.core.clock import Clock, SystemClock
from misstep.core.settings import AgentSettings, Settings

HOST = Host("3d1219c7c4c5404aaa1f6d2a48adfda4", "n1", "6ce5bd0205244c2fb0bd769691970735", "n1-3d1219c7c4c5")


class Event(NamedTuple):
    """A log record read back."""

    name: str
    body: str
    time: int
    severity: int
    attributes: dict[str, Any]


def _events(payload: bytes | list[bytes]) -> list[Event]:
    """Framed log records, read."""
    held = ScopeLogs.FromString(payload if isinstance(payload, bytes) else b"".join(payload))
    return [
        Event(
            record.event_name,
            record.body.string_value,
            record.time_unix_nano,
            record.severity_number,
            {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in record.attributes},
        )
        for record in held.log_records
    ]


def _points(out: Records) -> dict[tuple[str, ...], float]:
    """The points of a reading: (metric, attribute values…) → value."""
    found: dict[tuple[str, ...], float] = {}
    for metric in ScopeMetrics.FromString(out.metrics(Sheet())).metrics:
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            values = [str(getattr(a.value, a.value.WhichOneof("value"))) for a in point.attributes]
            key = (metric.name, *values)
            assert key not in found
            found[key] = point.as_double
    return found


@pytest.fixture
def read_events() -> Callable[[bytes | list[bytes]], list[Event]]:
    """Reads framed log records with opentelemetry-proto."""
    return _events


@pytest.fixture
def read_points() -> Callable[[Records], dict[tuple[str, ...], float]]:
    """Reads the points of a reading: (metric, attribute values…) → value."""
    return _points


def tell_gap(out: Records, kind: str, count: int, reason: str) -> None:
    out.event(
        "agent.gap",
        entity=HOST.entity,
        body=reason,
        attributes={names.DROPPED: count, names.DROPPED_KIND: kind},
    )


@pytest.fixture
def make_spool(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    opened: list[Spool] = []

    def make(folder: Path = tmp_path, **options: object) -> Spool:
        held: dict[str, object] = {"limit": 1 << 20, "age": 3600.0, "host_boot": HOST.boot, **options}
        spool = Spool(str(folder), gap_event=tell_gap, **held)  # type: ignore[arg-type]
        opened.append(spool)
        return spool

    yield make
    for spool in opened:
        spool.close()


@pytest.fixture
def make_context(tmp_path: Path, make_spool: Callable[..., Spool]) -> Callable[..., Context]:
    """Make a context; keywords are agent settings, `clock` the clock."""

    def make(clock: Clock | None = None, **agent: object) -> Context:
        settings = replace(Settings(data=tmp_path), agent=replace(AgentSettings(), **agent))  # type: ignore[arg-type]
        clock = clock or SystemClock()
        return Context(
            settings,
            HOST,
            make_spool(clock=clock),
            Workload(HOST.id, settings.site),
            Coverage(HOST.entity),
            clock,
        )

    return make
