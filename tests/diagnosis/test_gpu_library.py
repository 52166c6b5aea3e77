"""From a fault in the GPU library through NVML's ABI, the agent's child and its probe to the cause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.gpu import probe as gpu_probe
from misstep.agent.gpu import throttle
from misstep.agent.gpu.probe import GpuProbe
from misstep.agent.identity import Host
from misstep.agent.records import Records
from misstep.agent.workload import Process, Workload
from misstep.core.clock import SystemClock
from misstep.core.settings import AgentSettings, Settings
from misstep.diagnosis import Incident
from misstep.lab import nvml
from misstep.store.rows import LogRow

HOST = Host("3d1219c7c4c5404aaa1f6d2a48adfda4", "n1", "6ce5bd0205244c2fb0bd769691970735", "n1-3d1219c7c4c5")
SESSION = "local/torch/train.py/2026-11-21_10-00-00_29500"
PID = 4711


class Machine:
    """The probe with one rank that holds GPU 2, and the rows that it brings."""

    def __init__(self, folder: Path) -> None:
        self.control = nvml.Control(folder)
        self.control.processes({2: [(PID, 1 << 30)]})
        settings = replace(
            Settings(data=folder),
            agent=replace(AgentSettings(), nvml_library=str(folder / nvml.SONAME), interval=0.1),
        )
        workload = Workload(HOST.id, "local")
        rank = Process(PID, 99)
        rank.role, rank.session, rank.environment = "rank", SESSION, {"RANK": "2", "WORLD_SIZE": "4"}
        workload.add(rank)
        self.probe = GpuProbe(Context(settings, HOST, None, workload, Coverage(HOST.entity), SystemClock()))  # type: ignore[arg-type]
        self.rows: list[LogRow] = []

    def run(self, until: Callable[[], object], patience: float = 20.0) -> None:
        """Follow the probe until something is so."""
        deadline = time.monotonic() + patience
        while not until():
            assert time.monotonic() < deadline, self.rows[-3:]
            time.sleep(0.05)
            out = Records(time.time_ns())
            self.probe.check(out.now, out)
            for record in ScopeLogs.FromString(b"".join(out.events)).log_records:
                held = {a.key: str(getattr(a.value, a.value.WhichOneof("value"))) for a in record.attributes}
                self.rows.append(
                    LogRow(
                        len(self.rows) + 1, 0, out.now, record.time_unix_nano, record.event_name, record.severity_number,
                        held.pop("misstep.session", ""), held.pop("misstep.entity", ""), held.pop("misstep.state", ""),
                        record.body.string_value, held, {"host.name": HOST.name, "host.id": HOST.id},
                    )
                )  # fmt: skip

    def says(self, event: str, state: str = "") -> list[LogRow]:
        """Rows of an event."""
        return [row for row in self.rows if row.event == event and (not state or row.state == state)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    if nvml.compiler() is None:
        pytest.skip("no C compiler: the GPU library cannot be built (apt-get install gcc libc6-dev)")
    nvml.library(tmp_path)
    monkeypatch.setattr(gpu_probe, "SILENCE", 0.8)
    monkeypatch.setattr(throttle, "WINDOW", 400_000_000)
    held = Machine(tmp_path)
    held.run(lambda: held.says("hw.gpu.process"))
    yield held
    held.control.clear()
    held.probe.close()


@pytest.mark.parametrize(
    ("fault", "event", "state", "cause"),
    [
        ({"lost": 1}, "hw.gpu.state", "lost", "gpu-lost"),
        ({"ecc_uncorrected": 1}, "hw.gpu.event", "ecc_uncorrected", "gpu-memory-error"),
        ({"remap_failed": 1}, "hw.gpu.event", "remap_failed", "gpu-memory-error"),
        ({"link_down": 5}, "hw.gpu.event", "nvlink_down", "nvlink-error"),
        ({"reset_required": 1}, "hw.gpu.state", "reset_required", "gpu-stopped"),
        ({"hang": 1}, "hw.gpu.state", "unresponsive", "gpu-stopped"),
        ({"hw_thermal": 1}, "hw.gpu.event", "throttled", "gpu-throttled"),
    ],
)  # fmt: skip
def test_each_fault_has_its_cause(
    machine: Machine,
    replayed: Callable[..., list[Incident]],
    fault: dict[str, int],
    event: str,
    state: str,
    cause: str,
) -> None:
    machine.run(
        lambda: machine.says("hw.gpu.found") and machine.probe._account._last
    )  # the first counters are known
    machine.control.set(2, **fault)
    machine.run(lambda: machine.says(event, state))
    (incident,) = replayed(machine.rows, SESSION, extra=2)
    gpu, *others = incident.blamed
    assert (incident.cause, gpu["kind"], gpu["name"]) == (cause, "gpu", "2")
    assert gpu["attributes"]["uuid"] == "GPU-00000000-0000-4000-8000-000000000002"
    assert (others[-1]["kind"], others[-1]["name"]) == ("process", f"pid {PID}")
    assert "rank 2 held it" in incident.data["title"]


def test_a_power_cap_and_corrected_errors_are_no_reason(machine: Machine, replayed: Any) -> None:
    machine.control.set(
        2, power_cap=1, ecc_corrected=900, remapped_corrected=1, remap_pending=1, temperature=84
    )
    machine.control.add(2, "link_errors", 3, 12)
    machine.run(lambda: machine.says("hw.gpu.event", "remap_pending"))
    assert replayed(machine.rows, SESSION, extra=2) == []
