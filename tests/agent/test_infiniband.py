"""InfiniBand ports on a tree of /sys as mlx5 writes it: two adapters, one of them the NVLink switches'."""

import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from misstep.agent import infiniband, procfs
from misstep.agent.infiniband import InfinibandProbe
from misstep.agent.records import Records


class Tree:
    """/sys/class/infiniband."""

    def __init__(self, root: Path) -> None:
        self.root = root / "sys" / "class" / "infiniband"

    def write(self, device: str, **files: str) -> None:
        port = self.root / device / "ports" / "1"
        for name, text in files.items():
            path = port / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    def product(self, device: str, text: bytes) -> None:
        (self.root / device / "device").mkdir(parents=True)
        (self.root / device / "device" / "vpd").write_bytes(text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    held = Tree(tmp_path)
    held.write(
        "mlx5_0",
        state="4: ACTIVE",
        rate="400 Gb/sec (4X NDR)",
        counters__port_rcv_data="1000",
        counters__port_xmit_data="250",
        counters__symbol_error="3",
        counters__link_downed="N/A (no PMA)",
        hw_counters__out_of_sequence="12",
        hw_counters__lifespan="12",
    )
    held.product("mlx5_0", b"\x82\x2e\x00NVIDIA ConnectX-7 HHHL adapter card")
    return held


@pytest.fixture
def probe(tree: Tree, tmp_path: Path, make_context: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(infiniband, "_EVERY", 0.02)
    probe = InfinibandProbe(make_context(), str(tmp_path))
    yield probe
    probe.close()


class Reading(NamedTuple):
    out: Records
    state: Any


def until(probe: Any, wanted: Any, seconds: float = 60.0) -> Reading:
    """Check until a reading has what is wanted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        out = Records(1)
        held = Reading(out, probe.check(1, out))
        if wanted(held):
            return held
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_a_port_is_read_whole(probe: Any, read_points: Any) -> None:
    assert probe.supported().name == "ok"
    assert read_points(until(probe, lambda held: held.out.series).out) == {
        ("hw.network.up", "mlx5_0/1"): 1,
        ("hw.network.bandwidth.limit", "mlx5_0/1"): 50e9,
        ("hw.network.io", "mlx5_0/1", "receive"): 4000,
        ("hw.network.io", "mlx5_0/1", "transmit"): 1000,
        ("hw.network.port.events", "mlx5_0/1", "symbol_error"): 3,
        ("hw.network.port.events", "mlx5_0/1", "out_of_sequence"): 12,
    }


def test_a_link_that_goes_down_and_comes_back_is_told(probe: Any, tree: Tree, read_events: Any) -> None:
    until(probe, lambda held: held.out.series)
    tree.write("mlx5_0", state="1: DOWN")
    (down,) = read_events(until(probe, lambda held: held.out.events).out.events)
    tree.write("mlx5_0", state="4: ACTIVE")
    (up,) = read_events(until(probe, lambda held: held.out.events).out.events)
    assert [(event.name, event.attributes["misstep.state"], event.body) for event in (down, up)] == [
        ("hw.network.link", "down", "mlx5_0/1 is DOWN"),
        ("hw.network.link", "up", "mlx5_0/1 is ACTIVE"),
    ]


def test_adapters_of_the_switches_are_not_touched(probe: Any, tree: Tree, read_points: Any) -> None:
    tree.product("mlx5_9", b"\x82\x2e\x00Nvidia ConnectX-7 mezz internal\x90\x10\x00V1\x06SW_MNG")
    tree.write("mlx5_9", state="4: ACTIVE", rate="400 Gb/sec (4X NDR)", counters__symbol_error="1")
    found = until(probe, lambda held: held.out.series)
    assert {key[1] for key in read_points(found.out)} == {"mlx5_0/1"}
    assert "mlx5_9" in found.state.reason


def test_firmware_that_hangs_is_said_and_holds_up_nobody(
    probe: Any, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    read = procfs.read

    def hangs(path: str, limit: int = 0) -> bytes:
        if path.endswith("symbol_error"):
            released.wait(60)
        return read(path, 128)

    monkeypatch.setattr(procfs, "read", hangs)
    monkeypatch.setattr(infiniband, "_SILENT", 0.1)
    found = until(probe, lambda held: held.state.name == "failing")
    assert "mlx5_0/ports/1/counters/symbol_error" in found.state.reason
    released.set()
    assert until(probe, lambda held: held.out.series).state.name == "ok"


def test_a_counter_that_refuses_is_not_asked_twice(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = procfs.read

    def refuses(path: str, limit: int = 0) -> bytes:
        asked.append(path)
        if path.endswith("symbol_error"):
            raise OSError(22, "Invalid argument")
        return read(path, 128)

    monkeypatch.setattr(procfs, "read", refuses)
    for _ in range(3):
        until(probe, lambda held: held.out.series)
    assert sum(path.endswith("symbol_error") for path in asked) == 1
    assert sum(path.endswith("out_of_sequence") for path in asked) >= 2


def test_a_machine_without_any(make_context: Any, tmp_path: Path) -> None:
    assert InfinibandProbe(make_context(), str(tmp_path)).supported().name == "off"
