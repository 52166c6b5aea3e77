"""GPUs to read: the lab's library, compiled with the system's compiler, and the agent's probe on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.gpu.probe import GpuProbe
from misstep.agent.identity import Host
from misstep.agent.probe import SourceState
from misstep.agent.records import Records
from misstep.agent.series import Sheet
from misstep.agent.workload import Workload
from misstep.core.clock import SystemClock
from misstep.core.settings import AgentSettings, Settings
from misstep.lab import nvml

HOST = Host("3d1219c7c4c5404aaa1f6d2a48adfda4", "n1", "6ce5bd0205244c2fb0bd769691970735", "n1-3d1219c7c4c5")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled once."""
    if nvml.compiler() is None:
        pytest.skip("no C compiler: the GPU library cannot be built (apt-get install gcc libc6-dev)")
    return nvml.library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def control(compiled: Path) -> nvml.Control:
    """The state of the library's GPUs, healthy at first."""
    return nvml.Control(compiled.parent)


class Event(NamedTuple):
    """An event read back."""

    name: str
    state: str
    body: str
    attributes: dict[str, Any]


class Follower:
    """The agent's probe, asked a few times a second, and all that it brought.

    Attributes:
        points: the newest value by (metric, attribute values…).
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.probe = GpuProbe(context)
        self.events: list[Event] = []
        self.points: dict[tuple[str, ...], float] = {}
        self.state: SourceState | None = None
        self._sheet = Sheet()

    def check(self) -> None:
        """Ask once."""
        out = Records(time.time_ns())
        self.state = self.probe.check(out.now, out)
        for record in ScopeLogs.FromString(b"".join(out.events)).log_records:
            held = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in record.attributes}
            state = held.pop("misstep.state", "")
            self.events.append(Event(record.event_name, state, record.body.string_value, held))
        for metric in ScopeMetrics.FromString(out.metrics(self._sheet)).metrics:
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                values = [str(getattr(a.value, a.value.WhichOneof("value"))) for a in point.attributes]
                self.points[metric.name, *values] = point.as_double

    def until(self, ready: Callable[[], object], patience: float = 15.0) -> None:
        """Ask until something is so."""
        deadline = time.monotonic() + patience
        while not ready():
            assert time.monotonic() < deadline, (self.state, self.events[-5:])
            time.sleep(0.05)
            self.check()

    def of(self, name: str, state: str = "") -> list[Event]:
        """The events of a name, and of a state where one is given."""
        return [event for event in self.events if event.name == name and (not state or event.state == state)]


@pytest.fixture
def follow(tmp_path: Path, compiled: Path, control: nvml.Control) -> Iterator[Callable[..., Follower]]:
    """Starts the probe on the library; keywords are agent settings."""
    started: list[Follower] = []

    def start(**agent: Any) -> Follower:
        held = {"nvml_library": str(compiled), "interval": 0.2, **agent}
        settings = replace(Settings(data=tmp_path), agent=replace(AgentSettings(), **held))
        (tmp_path / "agent").mkdir(exist_ok=True)
        context = Context(
            settings, HOST, None, Workload(HOST.id, settings.site), Coverage(HOST.entity), SystemClock()  # type: ignore[arg-type]
        )  # fmt: skip
        started.append(Follower(context))
        return started[-1]

    yield start
    for one in started:
        one.probe.close()
