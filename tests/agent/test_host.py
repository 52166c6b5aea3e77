"""The host probe on recorded /proc files, and on this machine."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.cgroups import Cgroups
from misstep.agent.host import HostProbe
from misstep.agent.records import Records
from misstep.agent.workload import Process, Workload
from misstep.core.clock import SECOND, SettableClock

RECORDED = Path(__file__).parents[1] / "data" / "agent" / "proc"


@pytest.fixture
def host(make_context: Any, tmp_path: Any) -> Any:
    root = tmp_path / "proc"
    shutil.copytree(RECORDED, root)
    clock = SettableClock()
    probe = HostProbe(make_context(clock), str(root))

    states: list[Any] = []

    def check() -> Any:
        out = Records(clock.now())
        states.append(probe.check(clock.now(), out))
        return out

    yield root, clock, check, states
    probe.close()


def test_a_recorded_machine(host: Any, read_points: Any) -> None:
    _, _, check, _ = host
    points = read_points(check())
    assert points["system.cpu.time", "user"] == 1177.66
    assert points["system.cpu.time", "iowait"] == 25.67
    assert points["system.cpu.time", "steal"] == 15.74
    assert points["system.disk.io", "vda", "read"] == 7634674 * 512
    assert points["system.disk.io", "vda", "write"] == 5262032 * 512
    assert points["system.disk.io_time", "vda"] == 31.288
    assert points["system.network.io", "eth0", "receive"] == 644686883
    assert points["system.network.io", "eth0", "transmit"] == 836399
    assert points["system.network.errors", "eth0", "receive"] == 0
    assert points["system.pressure.stall.time", "cpu", "some"] == 224.165637
    assert points["system.pressure.stall.time", "io", "full"] == 22.521617
    meminfo = {
        line.split()[0].rstrip(":"): int(line.split()[1]) * 1024
        for line in (RECORDED / "meminfo").read_text().splitlines()
    }
    assert points["system.memory.limit",] == meminfo["MemTotal"]
    assert points["system.memory.usage", "used"] == meminfo["MemTotal"] - meminfo["MemAvailable"]
    assert points["system.memory.usage", "cached"] == meminfo["Cached"]
    devices = {key[1] for key in points if key[0] in ("system.disk.io", "system.network.io")}
    assert devices == {"vda", "eth0", "ifb0", "ifb1"}


def test_the_second_reading_has_the_first_one_s_layout(host: Any) -> None:
    _, clock, check, _ = host
    check()
    clock.advance(1)
    second = check()
    clock.advance(1)
    third = check()
    assert [a is b for a, b in zip(second.series, third.series, strict=True)] == [True] * len(second.series)
    assert second.now + SECOND == third.now


def test_a_kernel_without_pressure_is_said(host: Any, read_points: Any) -> None:
    root, _, check, states = host
    shutil.rmtree(root / "pressure")
    points = read_points(check())
    assert not [key for key in points if "pressure" in key[0]]
    assert states[-1].name == "ok"
    assert "pressure/cpu" in states[-1].reason
    assert states[-1].remedy == "boot with psi=1"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_this_machine(make_context: Any, read_points: Any) -> None:
    probe = HostProbe(make_context())
    assert probe.supported().name == "ok"
    out = Records(1)
    probe.check(1, out)
    probe.close()
    points = read_points(out)
    assert points["system.memory.limit",] > points["system.memory.usage", "used"] > 0
    assert points["system.cpu.time", "user"] > 0


@pytest.mark.parametrize(
    ("usage", "limit", "unlimited"),
    [
        ("memory.current", "memory.max", "max"),
        ("memory.usage_in_bytes", "memory.limit_in_bytes", "9223372036854771712"),
    ],
)
def test_cgroups_of_the_workload(
    tmp_path: Any, read_points: Any, usage: Any, limit: Any, unlimited: Any
) -> None:
    workload = Workload("a" * 32, "local")
    for pid, path in ((1, "/job"), (2, "/job"), (3, "/free"), (4, "/"), (5, "/gone")):
        process = Process(pid, pid)
        process.cgroup = path
        workload.add(process)
    for path, bound in (("job", "1000"), ("free", unlimited)):
        (tmp_path / path).mkdir()
        (tmp_path / path / usage).write_text("512\n")
        (tmp_path / path / limit).write_text(bound + "\n")
    cgroups = Cgroups(workload, ((str(tmp_path / "none"), "x", "y"), (str(tmp_path), usage, limit)))
    out = Records(1)
    cgroups.check(out)
    assert read_points(out) == {
        ("cgroup.memory.usage", "/free"): 512,
        ("cgroup.memory.usage", "/job"): 512,
        ("cgroup.memory.limit", "/job"): 1000,
    }
    for process in workload.processes():
        workload.remove(process)
    for _ in range(6):
        out = Records(1)
        cgroups.check(out)
    assert not out
    cgroups.close()
