"""The kernel log: lines as kernels and drivers write them, and the device itself."""

import json
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

DATA = Path(__file__).parents[1] / "data" / "agent"
RECORDED, MEANT = DATA / "kmsg_segfault_oom.txt", DATA / "kernel_lines.jsonl"


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


def _meant() -> list[Any]:
    """Lines as kernels and drivers wrote them, and what each means."""
    held = [json.loads(row) for row in MEANT.read_text().splitlines()]
    return [pytest.param(row, id=f"{row['event']}-{number}") for number, row in enumerate(held, 1)]


@pytest.mark.parametrize("row", _meant())
def test_what_lines_mean(row: dict[str, Any]) -> None:
    head, _, text = row["line"].partition(";")
    line = Reader().read(int(head.partition(",")[0]), text)
    assert line is not None
    expected = {key: value for key, value in row.items() if key not in ("line", "event", "state")}
    assert (line.event, line.state, line.attributes) == (row["event"], row.get("state", ""), expected)
    assert line.pid in (0, expected.get("process.pid"))


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
