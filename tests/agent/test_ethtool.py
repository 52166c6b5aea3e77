"""Counters of network interfaces: as mlx5's driver lists them, through a kernel of our own; and this machine's own."""

import errno
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import infiniband
from misstep.agent.ethtool import Interface
from misstep.agent.infiniband import InfinibandProbe
from misstep.agent.records import Records

# From `ethtool -S` of a ConnectX-7 with RoCE on priority 3; what is left out here is of the same kind.
RECORDED = """\
rx_packets: 6234918441
rx_xdp_drop: 0
rx_out_of_buffer: 12
rx_vport_rdma_unicast_bytes: 81234918441
tx_pause_ctrl_phy: 96204
rx_pause_ctrl_phy: 148213
rx_discards_phy: 7
tx_discards_phy: 0
rx_symbol_err_phy: 0
link_down_events_phy: 2
outbound_pci_stalled_wr: 0
rx_prio0_packets: 991
rx_prio0_discards: 0
rx_prio3_bytes: 9234918441
rx_prio3_packets: 41234918441
rx_prio3_discards: 7
tx_prio3_packets: 51234918441
rx_prio3_buf_discard: 5
rx_prio3_cong_discard: 0
rx_prio5_packets: 0
rx_prio5_discards: 0
rx_prio3_pause: 148213
rx_prio3_pause_duration: 3320119
tx_prio3_pause: 96204
tx_prio3_pause_duration: 1904772
rx_prio3_pause_transition: 70123
rx_prio5_pause: 0
rx_prio5_pause_duration: 0
rx_global_pause: 0
rx_global_pause_duration: 0
tx_pause_storm_warning_events: 1
tx_pause_storm_error_events: 0
ch0_events: 77
"""


class Kernel:
    """Answers SIOCETHTOOL's requests from a listing of counters."""

    def __init__(self, text: str) -> None:
        self.counters = [
            (name, int(value)) for name, _, value in (row.partition(": ") for row in text.splitlines())
        ]
        self.asked: list[tuple[str, int]] = []

    def __call__(self, name: str, request: bytearray) -> None:
        command = struct.unpack_from("=I", request)[0]
        self.asked.append((name, command))
        if name == "gone":
            raise OSError(errno.ENODEV, "No such device")
        if command == 0x37:
            struct.pack_into("=QI", request, 8, 1 << 1, len(self.counters))
        elif command == 0x1B:
            for place, (own, _) in enumerate(self.counters):
                struct.pack_into("32s", request, 12 + 32 * place, own.encode())
        elif command == 0x1D:
            struct.pack_into(f"={len(self.counters)}Q", request, 8, *(value for _, value in self.counters))
        else:
            raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture
def kernel() -> Kernel:
    return Kernel(RECORDED)


def test_only_what_tells_of_congestion_and_loss_is_taken(kernel: Kernel) -> None:
    assert Interface("eth2", kernel).read() == {
        "rx_out_of_buffer": 12, "tx_pause_ctrl_phy": 96204, "rx_pause_ctrl_phy": 148213, "rx_discards_phy": 7, "tx_discards_phy": 0,
        "rx_symbol_err_phy": 0, "link_down_events_phy": 2, "rx_prio0_discards": 0, "rx_prio3_discards": 7, "rx_prio3_buf_discard": 5,
        "rx_prio3_cong_discard": 0, "rx_prio3_pause": 148213, "rx_prio3_pause_duration": 3320119, "tx_prio3_pause": 96204,
        "tx_prio3_pause_duration": 1904772, "rx_global_pause": 0, "rx_global_pause_duration": 0, "tx_pause_storm_warning_events": 1,
        "tx_pause_storm_error_events": 0,
    }  # fmt: skip


def test_names_are_learned_once_and_again_when_their_number_changes(kernel: Kernel) -> None:
    held = Interface("eth2", kernel)
    held.read()
    held.read()
    assert [command for _, command in kernel.asked] == [0x37, 0x1B, 0x1D, 0x37, 0x1D]
    kernel.counters.insert(0, ("ch1_events", 5))
    kernel.counters.append(("rx_prio4_discards", 9))
    assert held.read()["rx_prio4_discards"] == 9
    assert held.read()["rx_prio3_pause"] == 148213


def test_more_counters_than_announced_do_not_write_past_the_end(kernel: Kernel) -> None:
    """Older kernels write as many as there are, and a driver may get more between two questions."""

    def grows(name: str, request: bytearray) -> None:
        kernel(name, request)
        if struct.unpack_from("=I", request)[0] == 0x37:
            kernel.counters += [(f"ch{n}_events", n) for n in range(2000)]

    assert Interface("eth2", grows).read()["rx_prio3_pause"] == 148213


def test_a_driver_without_counters_is_asked_no_further(kernel: Kernel) -> None:
    kernel.counters = [("rx_queue_0_packets", 5)]
    held = Interface("eth2", kernel)
    assert held.read() == held.read() == {}
    assert [command for _, command in kernel.asked] == [0x37, 0x1B, 0x37]


def test_other_drivers_names() -> None:
    kernel = Kernel(
        "rx_pfc_ena_frames_pri3: 4\ntx_pfc_ena_frames_pri5: 0\nrx_priority_3_xoff.nic: 6\nrx_bytes: 1\nrx_pause_frames: 2\n"
    )
    assert Interface("eth2", kernel).read() == {
        "rx_pfc_ena_frames_pri3": 4,
        "rx_priority_3_xoff.nic": 6,
        "rx_pause_frames": 2,
    }


@pytest.mark.skipif(not Path("/sys/class/net").is_dir(), reason="needs Linux")
def test_this_machine_answers_without_privilege() -> None:
    answered = 0
    for name in (path.name for path in Path("/sys/class/net").iterdir()):
        try:
            Interface(name).read()
            answered += 1
        except OSError as error:
            assert error.errno in (errno.EOPNOTSUPP, errno.ENODEV)
    if not answered:
        pytest.skip("no interface here has counters of its driver")


@pytest.mark.parametrize("by", ["device", "ndevs"])
def test_a_roce_port_has_its_interface_s_counters(
    tmp_path: Path,
    make_context: Any,
    read_points: Any,
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    device = tmp_path / "sys" / "class" / "infiniband" / "mlx5_2"
    files = {
        "ports/1/state": "4: ACTIVE",
        "ports/1/link_layer": "Ethernet",
        "ports/1/hw_counters/np_cnp_sent": "88",
    }
    files |= {"ports/1/hw_counters/rp_cnp_handled": "99"}
    if by == "device":
        files |= {"device/net/eth9/dev_port": "1", "device/net/eth2/dev_port": "0"}
    else:
        files |= {"ports/1/gid_attrs/ndevs/0": "eth2"}
    for name, text in files.items():
        (device / name).parent.mkdir(parents=True, exist_ok=True)
        (device / name).write_text(text + "\n")
    monkeypatch.setattr(infiniband, "_EVERY", 0.02)
    probe = InfinibandProbe(make_context(), str(tmp_path), kernel)
    points: dict[tuple[str, ...], float] = {}
    deadline = time.monotonic() + 60
    while not points and time.monotonic() < deadline:
        out = Records(1)
        assert probe.check(1, out) == ("ok", "", "")
        points = read_points(out)
        time.sleep(0.01)
    probe.close()
    port = "mlx5_2/1"
    assert {name for name, _ in kernel.asked} == {"eth2"}
    assert points["hw.network.port.pause.time", port, "receive", "3"] == pytest.approx(3.320119)
    assert points["hw.network.port.pause.time", port, "transmit", "3"] == pytest.approx(1.904772)
    assert points["hw.network.port.pause.time", port, "receive", "all"] == 0
    assert points["hw.network.port.events", port, "rx_prio3_buf_discard"] == 5
    assert points["hw.network.port.events", port, "np_cnp_sent"] == 88
    assert not [key for key in points if "prio5" in str(key) or "packets" in str(key)]
