"""The kernel log: lines as kernels and drivers write them, and the device itself."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from misstep.agent import kernel_log
from misstep.agent.kernel_lines import Reader
from misstep.agent.kernel_log import KernelLogProbe
from misstep.agent.probe import OK
from misstep.agent.records import Records
from misstep.agent.workload import Process

RECORDED = Path(__file__).parents[1] / "data" / "agent" / "kmsg_segfault_oom.txt"


@pytest.fixture
def follow(make_context: Any, tmp_path: Any) -> Any:
    """A probe on a file of records: (context, append, check)."""
    path = tmp_path / "kmsg"
    path.write_bytes(b"")
    context = make_context(kernel_log=str(path))
    probes = []

    def start() -> Any:
        probe = KernelLogProbe(context)
        probes.append(probe)
        assert probe.supported().name == "ok"

        def check() -> Records:
            out = Records(5_000)
            assert probe.check(5_000, out) == OK
            context.spool.commit([out])
            return out

        return check

    def append(*lines: str) -> None:
        with open(path, "a") as file:
            file.writelines(line + "\n" for line in lines)

    yield context, append, start
    for probe in probes:
        probe.close()


def test_a_recorded_segfault_and_oom_kill(follow: Any, read_events: Any) -> None:
    context, append, start = follow
    victim = Process(6707, 4242)
    victim.title, victim.session = "ray::tokenize", "local/ray/ray/x"
    context.workload.add(victim)
    append(*RECORDED.read_text().splitlines())
    events = read_events(start()().events)
    assert [event.name for event in events] == ["kernel.segfault", "kernel.message", "kernel.oom_kill"]
    segfault, invoked, kill = events
    assert segfault.attributes["process.pid"] == 6705
    assert segfault.attributes["process.executable.name"] == "python3"
    assert segfault.body.startswith("python3[6705]: segfault at 0 ip ")
    assert "misstep.entity" not in segfault.attributes
    assert "invoked oom-killer" in invoked.body
    assert kill.attributes == {
        "misstep.session": "local/ray/ray/x",
        "misstep.entity": f"process/{context.host.id[:12]}/6707/4242",
        "process.executable.name": "python3",
        "process.pid": 6707,
        "process.start_ticks": 4242,
        "process.title": "ray::tokenize",
        "kernel.oom.constraint": "CONSTRAINT_MEMCG",
        "cgroup": "/user.slice/ada/job",
        "kernel.log.sequence": 425,
    }
    assert kill.severity == 17


@pytest.mark.parametrize(
    ("text", "event", "attributes"),
    [
        (
            "Out of memory: Killed process 812 (my proc (x)) total-vm:1kB, anon-rss:2kB, file-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0",
            "kernel.oom_kill", {"process.executable.name": "my proc (x)", "process.pid": 812},
        ),
        (
            "Memory cgroup out of memory: Killed process 19076 (python3) total-vm:49364kB, anon-rss:39552kB",
            "kernel.oom_kill", {"process.executable.name": "python3", "process.pid": 19076},
        ),
        (
            "traps: python3[33] general protection fault ip:7f00 sp:7ffe error:0 in libcuda.so[7f00+1000]",
            "kernel.segfault", {"process.executable.name": "python3", "process.pid": 33},
        ),
        (
            "traps: ray::f[34] trap invalid opcode ip:55 sp:7f error:0 in x[55+1000]",
            "kernel.segfault", {"process.executable.name": "ray::f", "process.pid": 34},
        ),
        (
            "INFO: task python:4711 blocked for more than 122 seconds.",
            "kernel.hung_task", {"process.executable.name": "python", "process.pid": 4711},
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00): 79, pid=2511, name=python3, GPU has fallen off the bus.",
            "hw.gpu.xid", {"hw.gpu.xid": 79, "hw.id": "0000:3b:00", "process.pid": 2511, "process.executable.name": "python3"},
        ),
        (
            "NVRM: Xid (PCI:0000:3B:00 GPU-I:02 GPU-CI:00): 94, pid=88, name=python, Contained: CE User Channel (0x9). RST: No, D-RST: No",
            "hw.gpu.xid",
            {"hw.gpu.xid": 94, "hw.id": "0000:3b:00", "hw.gpu.mig.instance": "2/0", "process.pid": 88, "process.executable.name": "python"},
        ),
        (
            "NVRM: Xid (PCI:0000:18:00 GPU-I:07): 95, pid='<unknown>', name=<unknown>, Uncontained",
            "hw.gpu.xid", {"hw.gpu.xid": 95, "hw.id": "0000:18:00", "hw.gpu.mig.instance": "7"},
        ),
        (
            "NVRM: Xid (PCI:0000:18:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x00000004 0x0)",
            "hw.gpu.xid", {"hw.gpu.xid": 149, "hw.id": "0000:18:00"},
        ),
        ("NVRM: Xid (0000:03:00): 31, Ch 00000010", "hw.gpu.xid", {"hw.gpu.xid": 31, "hw.id": "0000:03:00"}),
        (
            "NVRM: Xid (PCI:0000:65:00): 45, pid=5012, name=python3, Ch 00000008 caused by previous Xid 48",
            "hw.gpu.xid",
            {"hw.gpu.xid": 45, "hw.id": "0000:65:00", "process.pid": 5012, "process.executable.name": "python3", "hw.gpu.xid.cause": 48},
        ),
        (
            "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x4 (Drain and Reset) to 0x1 (GPU Reset Required)",
            "hw.gpu.xid", {"hw.gpu.xid": 154, "hw.id": "0000:18:00"},
        ),
        (
            "NVRM: Xid (PCI:0000:4f:00): 119, pid=1234, name=nv-hostengine, Timeout after 6s of waiting for RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20803032 0x58c).",
            "hw.gpu.xid", {"hw.gpu.xid": 119, "hw.id": "0000:4f:00", "process.pid": 1234, "process.executable.name": "nv-hostengine"},
        ),
        ("NVRM: The NVIDIA GPU driver has been unloaded", "kernel.message", {}),
    ],
)  # fmt: skip
def test_what_lines_mean(text: Any, event: Any, attributes: Any) -> None:
    line = Reader().read(6, text)
    assert line is not None
    assert (line.event, line.attributes) == (event, attributes)


@pytest.mark.parametrize(
    ("priority", "text", "event", "state", "attributes"),
    [
        (3, "NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.", "hw.gpu.state", "lost", {"hw.id": "0000:18:00"}),
        (3, "NVRM: GPU at PCI:0000:3b:00: GPU has fallen off the bus.", "hw.gpu.state", "lost", {"hw.id": "0000:3b:00"}),
        (
            3, "nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
            "kernel.device", "failed", {"kernel.subject": "nvswitch", "hw.id": "0000:00:00.0", "hw.nvswitch.sxid": 20034},
        ),
        (
            3, "mlx5_core 0000:5d:00.0: poll_health:829:(pid 0): device's health compromised - reached miss count",
            "kernel.device", "failed", {"kernel.subject": "mlx5", "hw.id": "0000:5d:00.0"},
        ),
        (
            4, "mlx5_core 0000:5d:00.0: mlx5_pcie_event:301:(pid 0): Detected insufficient power on the PCIe slot (27W).",
            "kernel.device", "failed", {"kernel.subject": "mlx5", "hw.id": "0000:5d:00.0"},
        ),
        (
            3, "mlx5_core 0000:9a:00.0: Port module event[error]: module 0, Cable error, High Temperature",
            "kernel.device", "failed", {"kernel.subject": "mlx5", "hw.id": "0000:9a:00.0"},
        ),
        (
            3, "infiniband mlx5_0: mlx5_cmd_out_err:838:(pid 17): ACCESS_REG(0x805) op_mod(0x1) failed, status bad parameter(0x3)",
            "kernel.device", "failed", {"kernel.subject": "mlx5", "hw.id": "mlx5_0"},
        ),
        (
            0, "mce: [Hardware Error]: CPU 2: Machine Check: 0 Bank 8: 9c00000000800151",
            "kernel.device", "failed", {"kernel.subject": "mce", "hw.id": "cpu 2"},
        ),
        (
            4, "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0 (channel:1 slot:0 page:0x1 offset:0x0 grain:32 syndrome:0x0)",
            "kernel.device", "corrected", {"kernel.subject": "edac", "hw.id": "mc0"},
        ),
        (
            4, "pcieport 0000:00:01.0: AER: Multiple Uncorrectable (Non-Fatal) error message received from 0000:3b:00.0",
            "kernel.device", "failed", {"kernel.subject": "aer", "hw.id": "0000:3b:00.0"},
        ),
        (
            4, "pcieport 0000:00:01.0: AER: Corrected error received: 0000:3b:00.0",
            "kernel.device", "corrected", {"kernel.subject": "aer", "hw.id": "0000:3b:00.0"},
        ),
        (
            5, "nfs: server 10.0.0.2 not responding, still trying",
            "kernel.device", "failed", {"kernel.subject": "nfs", "hw.id": "10.0.0.2"},
        ),
        (5, "nfs: server Storage-1 OK", "kernel.device", "recovered", {"kernel.subject": "nfs", "hw.id": "Storage-1"}),
        (
            4, "nvme nvme0: I/O 12 QID 3 timeout, reset controller",
            "kernel.device", "failed", {"kernel.subject": "nvme", "hw.id": "nvme0"},
        ),
        (
            3, "nvme nvme1: Disabling device after reset failure: -19",
            "kernel.device", "failed", {"kernel.subject": "nvme", "hw.id": "nvme1"},
        ),
        (
            2, "EXT4-fs (sda1): Remounting filesystem read-only",
            "kernel.device", "failed", {"kernel.subject": "filesystem", "hw.id": "sda1"},
        ),
        (
            0, "watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python3:812]",
            "kernel.device", "failed", {"kernel.subject": "lockup", "hw.id": "cpu#3"},
        ),
    ],
)  # fmt: skip
def test_what_lines_about_devices_mean(
    priority: int, text: str, event: str, state: str, attributes: dict[str, Any]
) -> None:
    line = Reader().read(priority, text)
    assert line is not None
    assert (line.event, line.state, line.attributes) == (event, state, attributes)


def test_a_lost_gpu_in_the_log_is_the_gpu_that_nvml_means(follow: Any, read_events: Any) -> None:
    context, append, start = follow
    append("3,7,1,-;NVRM: GPU 0000:3B:00.0: GPU has fallen off the bus.", "5,8,1,-;nfs: server a OK")
    lost, nfs = read_events(start()().events)
    assert lost.attributes["misstep.entity"] == f"gpu/{context.host.id[:12]}/0000:3b:00"
    assert lost.attributes["misstep.state"] == "lost"
    assert nfs.attributes["misstep.entity"] == context.host.entity


def test_a_fresh_line_of_a_file_happened_when_its_stamp_says(follow: Any, read_events: Any) -> None:
    context, append, _ = follow
    probe = KernelLogProbe(context)
    assert probe.supported() == OK
    append(f"4,1,{time.monotonic_ns() // 1000 - 3_000_000},-;three seconds ago", "4,2,5,-;recorded long ago")
    out = Records(time.time_ns())
    probe.check(out.now, out)
    probe.close()
    fresh, recorded = read_events(out.events)
    assert 2.9e9 < out.now - fresh.time < 4e9
    assert recorded.time == out.now


def test_calm_lines_and_insides_of_traces_are_nobody_s_business() -> None:
    reader = Reader()
    assert reader.read(6, "EXT4-fs (vda): mounted filesystem") is None
    assert reader.read(4, "RAX: 0000000000000000 RBX: 000000000c800000") is None
    assert reader.read(4, " dump_stack_lvl+0x57/0x80") is None
    assert reader.read(6, "nvme nvme0: 4/0/0 default/read/poll queues") is None
    line = reader.read(4, "thermal thermal_zone0: critical temperature reached")
    assert line is not None
    assert line.event == "kernel.message"


def test_gaps_in_the_numbers_are_counted(follow: Any, read_events: Any) -> None:
    context, append, start = follow
    check = start()
    append("4,10,1,-;a", "4,11,1,-;b", "4,15,1,-;c", "no record", "x,y,z,-;d")
    out = check()
    assert [event.body for event in read_events(out.events)] == ["a", "b", "c"]
    assert sum(out.gaps.values()) == 3 + 2
    assert context.spool.dropped() == {"kernel": 5}


def test_a_new_agent_goes_on_where_the_last_one_was(follow: Any, read_events: Any) -> None:
    _, append, start = follow
    check = start()
    append("4,1,1,-;a", "4,2,1,-;b")
    assert len(check().events) == 2
    append("4,3,1,-;c")
    again = start()
    assert [event.body for event in read_events(again().events)] == ["c"]
    assert again().events == []


def test_a_half_written_line_waits_for_its_end(follow: Any, read_events: Any) -> None:
    context, append, start = follow
    check = start()
    path = context.settings.agent.kernel_log
    with open(path, "a") as file:
        file.write("4,1,1,-;first ha")
    assert check().events == []
    append("lf")
    assert [event.body for event in read_events(check().events)] == ["first half"]


def test_a_flood_is_cut_and_counted(follow: Any) -> None:
    _, append, start = follow
    check = start()
    append(*(f"4,{n},1,-;noise {n}" for n in range(500)))
    out = check()
    assert len(out.events) == kernel_log._MESSAGES_PER_CHECK
    assert sum(out.gaps.values()) == 500 - kernel_log._MESSAGES_PER_CHECK


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(2, "x"), "docker run --device /dev/kmsg"),
        (PermissionError(1, "x"), "dmesg_restrict=0"),
    ],
)
def test_a_closed_log_is_named_with_its_remedy(
    make_context: Any, monkeypatch: Any, error: Any, remedy: Any
) -> None:
    def refuse(*args: object) -> int:
        raise error

    probe = KernelLogProbe(make_context())
    monkeypatch.setattr(os, "open", refuse)
    state = probe.supported()
    assert state.name == "unsupported"
    assert remedy in state.remedy


def test_an_overrun_device_is_read_on(make_context: Any, monkeypatch: Any, read_events: Any) -> None:
    """EPIPE, as the kernel gives it when a reader was too slow: the next number tells how many are gone."""
    answers: list[Any] = [
        b"4,5,100,-;a\n",
        BrokenPipeError(32, "x"),
        b"4,9,200,-;b\n KEY=value\n",
        BlockingIOError(11, "x"),
    ]

    def read(fd: int, size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)

    probe = KernelLogProbe(make_context())
    if probe.supported().name != "ok":
        pytest.skip("no kernel log here")
    monkeypatch.setattr(os, "read", read)
    now = time.time_ns()
    out = Records(now)
    probe.check(now, out)
    monkeypatch.undo()
    probe.close()
    assert [event.body for event in read_events(out.events)] == ["a", "b"]
    assert sum(out.gaps.values()) == 3


def test_a_real_crash_reaches_us_through_the_device(make_context: Any, read_events: Any) -> None:
    probe = KernelLogProbe(make_context())
    if probe.supported().name != "ok" or Path("/proc/sys/debug/exception-trace").read_text().strip() != "1":
        pytest.skip("the kernel log is closed or silent here")
    child = subprocess.Popen([sys.executable, "-c", "import ctypes; ctypes.string_at(0)"])
    child.wait()
    found = []
    for _ in range(20):
        out = Records(time.time_ns())
        probe.check(out.now, out)
        found += [e for e in read_events(out.events) if e.attributes.get("process.pid") == child.pid]
        if found:
            break
        time.sleep(0.1)
    probe.close()
    if not found:
        pytest.skip("this kernel keeps crashes to itself (its rate limit, or another architecture)")
    assert found[0].name == "kernel.segfault"
    assert abs(found[0].time - time.time_ns()) < 10e9
    assert Path(sys.executable).name[:6] in found[0].attributes["process.executable.name"]
