"""The probe of GPUs with a real child on the library: what is read, what happens, and how the child lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.gpu import holders, process, release, throttle
from misstep.agent.gpu import probe as gpu_probe
from misstep.agent.owners import owner
from misstep.agent.workload import Process
from misstep.core import names
from misstep.lab import nvml

Start = Callable[..., Any]
HOST = "3d1219c7c4c5"
GPU = f"gpu/{HOST}/"


def test_everything_that_the_gpus_tell_is_read(follow: Start, control: nvml.Control) -> None:
    control.set(3, utilization=12, power=345678, temperature=77, throttled=0, ecc_corrected=5, pcie_width=8)
    control.set(3, hw_thermal=1, remapped_uncorrected=2)
    control.add(3, "link_down", 7)
    control.add(3, "link_errors", 4, 19)
    one = follow()
    one.until(lambda: ("hw.gpu.pcie.width", "0000:48:00", "3") in one.points)
    at = ("0000:48:00", "3")
    found = {key: value for key, value in one.points.items() if key[1:3] == at}
    assert found["hw.gpu.utilization", *at, "general"] == pytest.approx(0.12)
    assert found["hw.gpu.memory.usage", *at] == 68719476736
    assert found["hw.gpu.memory.limit", *at] == 85899345920
    assert found["hw.power", *at, "gpu"] == pytest.approx(345.678)
    assert found["hw.temperature", *at, "gpu", "gpu"] == 77
    assert found["hw.temperature", *at, "gpu", "memory"] == 74
    assert found["hw.gpu.clock.frequency", *at, "sm"] == pytest.approx(1.98e9)
    assert found["hw.gpu.sm.active", *at] == pytest.approx(0.91)
    assert found["hw.gpu.tensor.active", *at] == pytest.approx(0.47)
    assert found["hw.gpu.nvlink.throughput", *at, "receive"] == 96000 << 20
    assert found["hw.errors", *at, "gpu", "corrected"] == 5
    assert found["hw.gpu.rows.remapped", *at, "uncorrected"] == 2
    assert found["hw.gpu.pcie.width", *at] == 8
    assert found["hw.gpu.nvlink.active", *at] == 17
    assert found["hw.gpu.nvlink.errors", *at, "recovery"] == 19
    one.until(lambda: one.points["hw.gpu.throttle.time", *at, "hardware_thermal"] > 0.5)
    assert one.points["hw.gpu.throttle.time", *at, "power_brake"] == 0
    assert one.points["hw.energy", *at, "gpu"] > 0
    assert len({key[1] for key in one.points if key[0] == "hw.power"}) == 8
    assert one.points["misstep.gpu.sweep.duration",] < 0.1
    declared = {metric.name for metric in names.METRICS}
    assert {key[0] for key in one.points} <= declared
    assert one.state is not None and one.state.name == "ok"


def test_gpus_introduce_themselves(follow: Start) -> None:
    one = follow()
    one.until(lambda: one.of("hw.gpu.found"))
    third = one.of("hw.gpu.found")[3]
    assert third.body == "NVIDIA H100 80GB HBM3"
    assert third.attributes == {
        "misstep.entity": f"{GPU}0000:48:00", "hw.id": "0000:48:00", "hw.gpu.index": 3,
        "hw.gpu.uuid": "GPU-00000000-0000-4000-8000-000000000003", "hw.model": "NVIDIA H100 80GB HBM3",
        "hw.driver_version": "595.45.04", "hw.gpu.memory.limit": 85899345920, "hw.gpu.power.limit": 700.0, "hw.gpu.nvlink.count": 18,
    }  # fmt: skip


def test_a_lost_gpu_is_told_and_the_others_go_on(follow: Start, control: nvml.Control) -> None:
    one = follow()
    one.until(lambda: ("hw.power", "0000:48:00", "3", "gpu") in one.points)
    control.set(3, lost=1)
    one.until(lambda: one.of("hw.gpu.state", "lost"))
    lost = one.of("hw.gpu.state", "lost")
    assert [event.attributes["misstep.entity"] for event in lost] == [f"{GPU}0000:48:00"]
    one.points.clear()
    one.until(lambda: one.points)
    assert {key[2] for key in one.points if key[0] == "hw.power"} == {"0", "1", "2", "4", "5", "6", "7"}


def test_a_gpu_that_was_lost_before_we_came_is_met_when_it_is_back(
    follow: Start, control: nvml.Control
) -> None:
    control.set(4, lost=1)
    one = follow(interval=0.02)  # so that the minute between surveys is short
    one.until(lambda: one.of("hw.gpu.found"))
    assert {event.attributes["hw.gpu.index"] for event in one.of("hw.gpu.found")} == {0, 1, 2, 3, 5, 6, 7}
    control.set(4, lost=0)
    one.until(lambda: ("hw.power", "0000:58:00", "4", "gpu") in one.points)
    assert 4 in {event.attributes["hw.gpu.index"] for event in one.of("hw.gpu.found")}


def test_events_of_the_driver_arrive_at_once(follow: Start, control: nvml.Control) -> None:
    one = follow(interval=2.0)
    one.until(lambda: one.points)
    started = time.monotonic()
    control.add(5, "event", nvml.XID, 79)
    control.add(5, "event", nvml.UNAVAILABLE, 0)
    one.until(lambda: one.of("hw.gpu.event", "unavailable"))
    assert time.monotonic() - started < 1.5
    xid = one.of("hw.gpu.event", "xid")[0]
    assert (xid.body, xid.attributes["hw.gpu.xid"], xid.attributes["hw.gpu.index"]) == ("Xid 79", 79, 5)


def test_counters_that_rise_are_events(follow: Start, control: nvml.Control) -> None:
    control.set(1, ecc_uncorrected=2)
    one = follow(interval=0.05)
    one.until(lambda: ("hw.errors", "0000:28:00", "1", "gpu", "uncorrected") in one.points)
    assert not one.of("hw.gpu.event")
    control.set(1, ecc_uncorrected=3, remap_failed=1)
    control.add(1, "link_errors", 2, 9)
    one.until(lambda: one.of("hw.gpu.event", "remap_failed") and one.of("hw.gpu.event", "nvlink_errors"))
    (rose,) = one.of("hw.gpu.event", "ecc_uncorrected")
    assert rose.attributes["hw.gpu.value"] == 3
    (link,) = one.of("hw.gpu.event", "nvlink_errors")
    assert (link.attributes["hw.gpu.nvlink"], link.attributes["hw.gpu.value"]) == (2, 9)


def test_a_gpu_that_is_slowed_by_heat_is_an_event_and_a_power_cap_is_none(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "WINDOW", 500_000_000)
    control.set(2, hw_thermal=1, power_cap=1)
    one = follow(interval=0.1)
    one.until(lambda: one.of("hw.gpu.event", "throttled"))
    assert [
        (e.attributes["hw.gpu.index"], e.attributes["hw.gpu.throttle.reason"]) for e in one.of("hw.gpu.event")
    ] == [(2, "hardware_thermal")]
    control.set(2, hw_thermal=0)
    one.until(lambda: one.of("hw.gpu.event", "throttle_end"))


def test_mig_instances_have_their_own_memory_and_activity(follow: Start, control: nvml.Control) -> None:
    control.set(0, mig=2)
    one = follow()
    one.until(lambda: ("hw.gpu.sm.active", "0000:18:00", "0", "2") in one.points)
    assert one.points["hw.gpu.memory.usage", "0000:18:00", "0", "1"] == pytest.approx(
        85899345920 // 7 // 4, abs=8
    )
    assert ("hw.gpu.sm.active", "0000:18:00", "0") not in one.points
    assert ("hw.gpu.utilization", "0000:18:00", "0", "general") not in one.points
    assert ("hw.gpu.utilization", "0000:28:00", "1", "general") in one.points


# -- who holds a GPU ---------------------------------------------------------------------------------
def test_a_rank_that_holds_a_gpu_is_known_by_rank_container_and_pod(
    follow: Start, control: nvml.Control
) -> None:
    one = follow(interval=0.05)
    rank = Process(4711, 99)
    rank.role, rank.session, rank.environment = (
        "rank",
        "local/torch/train.py/x",
        {"RANK": "5", "WORLD_SIZE": "8"},
    )
    rank.cgroup = (
        "/kubepods.slice/kubepods-pod5f1c9a00_1111_2222_3333_444455556666.slice/cri-containerd-"
        + "ab" * 32
        + ".scope"
    )
    one.context.workload.add(rank)
    control.processes({3: [(4711, 1 << 33)]})
    one.until(lambda: one.of("hw.gpu.process"))
    (held,) = one.of("hw.gpu.process", "held")
    expected = {
        "misstep.entity": f"process/{HOST}/4711/99", "misstep.session": "local/torch/train.py/x", "misstep.gpu": f"{GPU}0000:48:00",
        "torch.rank": "5", "torch.world_size": "8", "k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "ab" * 32,
        "hw.gpu.process.memory": 1 << 33, "hw.gpu.index": 3,
    }  # fmt: skip
    assert {key: held.attributes[key] for key in expected} == expected
    control.set(3, lost=1)
    one.until(lambda: one.of("hw.gpu.state", "lost"))
    assert one.of("hw.gpu.state", "lost")[0].attributes["misstep.session"] == "local/torch/train.py/x"
    control.set(3, lost=0)
    control.processes({})
    one.until(lambda: one.of("hw.gpu.process", "released"))
    assert one.of("hw.gpu.process", "released")[0].attributes["misstep.gpu"] == f"{GPU}0000:48:00"


@pytest.mark.parametrize("restricted", [0, 1])
def test_processes_of_mig_instances_are_told_with_and_without_privilege(
    follow: Start, control: nvml.Control, restricted: int
) -> None:
    control.set("driver", restricted=restricted)
    control.set(0, mig=2)
    control.add(0, "process", 4711, 1 << 30, 1, 0)
    control.add(0, "process", 4711, 1 << 30, 2, 0)
    one = follow()
    one.context.workload.add(Process(4711, 1))
    one.until(lambda: len(one.of("hw.gpu.process", "held")) == 2)
    instances = {event.attributes["misstep.gpu.instance"] for event in one.of("hw.gpu.process")}
    assert instances == {f"{GPU}0000:18:00/1", f"{GPU}0000:18:00/2"}
    found = one.of("hw.gpu.instance")
    assert {event.attributes["misstep.entity"] for event in found} == instances
    assert {event.attributes["hw.gpu.uuid"][:4] for event in found} == {"MIG-"}


def test_one_that_gives_back_an_instance_and_keeps_another_still_uses_the_gpu(
    follow: Start, control: nvml.Control
) -> None:
    control.set(0, mig=2)
    control.add(0, "process", 4711, 1 << 30, 1, 0)
    control.add(0, "process", 4711, 1 << 30, 2, 0)
    one = follow(interval=0.05)
    one.context.workload.add(Process(4711, 1))
    one.until(lambda: len(one.of("hw.gpu.process", "held")) == 2)
    for left in (1, 0):
        control.clear()
        control.set(0, mig=2)
        if left:
            control.add(0, "process", 4711, 1 << 30, 2, 0)
        one.until(lambda left=left: len(one.of("hw.gpu.process", "released")) == 2 - left)
    first, last = (event.attributes for event in one.of("hw.gpu.process", "released"))
    assert ("misstep.gpu" in first, first["misstep.gpu.instance"]) == (False, f"{GPU}0000:18:00/1")
    assert (last["misstep.gpu"], last["misstep.gpu.instance"]) == (f"{GPU}0000:18:00", f"{GPU}0000:18:00/2")


def test_a_holder_is_told_again_when_its_session_is_known(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_probe, "_REFRESH", 0)
    one = follow()
    process = Process(4711, 99)
    one.context.workload.add(process)
    control.processes({2: [(4711, 1)]})
    one.until(lambda: one.of("hw.gpu.process"))
    process.session = "local/ray/ray/1"
    one.until(lambda: len(one.of("hw.gpu.process")) == 2)
    assert [event.attributes.get("misstep.session", "") for event in one.of("hw.gpu.process")] == [
        "",
        "local/ray/ray/1",
    ]


def test_a_command_that_is_no_rank_has_the_session_of_its_misstep_run(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_PATIENCE", 0)
    monkeypatch.setattr(gpu_probe, "_REFRESH", 0)
    one = follow()
    one.context.workload.command_session = lambda pid, out: f"local/command/a.py/{pid}"
    for pid, role, environment in ((4711, "registered", {}), (4712, "rank", {"RANK": "0"})):
        process = Process(pid, 99)
        process.role, process.environment = role, environment
        one.context.workload.add(process)
    control.processes({1: [(4711, 1)], 2: [(4712, 1)]})
    one.until(lambda: len(one.of("hw.gpu.process")) >= 2)
    told = {
        e.attributes["process.pid"]: e.attributes.get("misstep.session", "") for e in one.of("hw.gpu.process")
    }
    assert told == {4711: "local/command/a.py/4711", 4712: ""}


def test_an_unknown_holder_is_asked_for(follow: Start, control: nvml.Control) -> None:
    control.processes({2: [(4712, 1)]})
    one = follow()
    asked: dict[int, tuple[str, str]] = {}
    one.until(lambda: asked.update(one.context.workload.take_asked()) or asked)
    assert asked == {4712: ("", "registered")}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/user.slice/user-1000.slice/session-3.scope", {}),
        ("/system.slice/docker-" + "0f" * 32 + ".scope", {"container.id": "0f" * 32}),
        ("/docker/" + "0f" * 32, {"container.id": "0f" * 32}),
        (
            "/kubepods/burstable/pod5f1c9a00-1111-2222-3333-444455556666/" + "cd" * 32,
            {"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "cd" * 32},
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod5f1c9a00_1111_2222_3333_444455556666.slice/crio-" + "cd" * 32 + ".scope",
            {"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "cd" * 32},
        ),
        (
            "/system.slice/containerd.service/kubepods-besteffort-pod5f1c9a00_1111_2222_3333_444455556666.slice:cri-containerd:" + "cd" * 32,
            {"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "cd" * 32},
        ),
        (
            "/system.slice/docker-" + "0f" * 32 + ".scope/kubelet.slice/kubelet-kubepods-pod5f1c9a00_1111_2222_3333_444455556666.slice/cri-containerd-" + "cd" * 32 + ".scope/init.scope",
            {"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "cd" * 32},
        ),
        ("/kubepods/pod" + "0a" * 16 + "/" + "cd" * 32, {"k8s.pod.uid": "0a" * 16, "container.id": "cd" * 32}),
        ("/../../kubepods/burstable/pod5f1c9a00-1111-2222-3333-444455556666/" + "cd" * 32, {"k8s.pod.uid": "5f1c9a00-1111-2222-3333-444455556666", "container.id": "cd" * 32}),
        ("/machine.slice/libpod-" + "cd" * 32 + ".scope/container", {"container.id": "cd" * 32}),
        ("/slurm/uid_1000/job_812/step_0", {"slurm.job.id": "812", "slurm.step.id": "0"}),
        ("/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0", {"slurm.job.id": "7", "slurm.step.id": "batch"}),
    ],
)  # fmt: skip
def test_a_cgroup_tells_whose_a_process_is(path: str, found: dict[str, str]) -> None:
    assert owner(path) == found


# -- the child's life ---------------------------------------------------------------------------------
def test_a_driver_that_hangs_is_itself_told(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_probe, "SILENCE", 0.6)
    one = follow()
    one.until(lambda: one.points)
    pid = one.probe._child.pid
    control.set(6, hang=1)
    one.until(lambda: one.of("hw.gpu.state", "unresponsive"))
    (hung,) = one.of("hw.gpu.state", "unresponsive")
    assert hung.attributes["hw.gpu.index"] == 6
    assert hung.body.startswith("nvmlDeviceGet")
    assert one.state is not None and one.state.name == "failing"
    assert f"pid {pid}" in one.state.reason
    control.set(6, hang=0)
    one.until(lambda: one.of("hw.gpu.state", "ok"))
    assert one.probe._child.pid == pid
    assert one.state.name == "ok"


def test_a_child_that_hangs_is_left_alone_and_goes_when_its_call_returns(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = follow()
    one.until(lambda: one.points)
    pid = one.probe._child.pid
    control.set(6, hang=1)
    time.sleep(0.5)
    one.probe.close()
    os.kill(pid, 0)
    control.set(6, hang=0)
    deadline = time.monotonic() + 60
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_gpus_are_released_for_a_reset_and_taken_back(follow: Start, tmp_path: Path) -> None:
    one = follow()
    one.until(lambda: one.points)
    pid = one.probe._child.pid
    flag = tmp_path / "agent" / release.FILE
    flag.touch()
    one.until(lambda: one.of("hw.gpu.driver", "released"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert one.state is not None and (one.state.name, one.state.remedy) == ("failing", "misstep gpu resume")
    one.points.clear()
    flag.unlink()
    one.until(lambda: one.points)
    assert one.state.name == "ok"


def test_a_forgotten_release_ends_by_itself(follow: Start, tmp_path: Path) -> None:
    one = follow()
    flag = tmp_path / "agent" / release.FILE
    flag.touch()
    one.check()
    assert one.state is not None and one.state.name == "failing"
    old = time.time_ns() - release.LASTS
    os.utime(flag, ns=(old, old))
    one.until(lambda: one.points)


@pytest.mark.parametrize(("key", "says"), [("missing", "not loaded"), ("mismatch", "different versions")])
def test_a_driver_that_goes_is_told_and_tried_again(
    follow: Start, control: nvml.Control, monkeypatch: pytest.MonkeyPatch, key: str, says: str
) -> None:
    monkeypatch.setattr(gpu_probe, "_RETRY", 300_000_000)
    control.set("driver", **{key: 1})
    one = follow()
    one.until(lambda: one.state is not None and one.state.name == "failing")
    assert one.state is not None and says in one.state.reason
    one.until(lambda: one.probe._child is None)
    control.clear()
    one.until(lambda: one.points)
    assert one.state.name == "ok"


def test_without_a_gpu_nothing_is_started(follow: Start, tmp_path: Path) -> None:
    absent = follow(nvml_library=str(tmp_path / "libnvidia-ml.so.1")).probe
    assert (absent.supported().name, absent._child) == ("unsupported", None)
    if not Path("/dev/nvidiactl").exists():
        assert follow(nvml_library="libnvidia-ml.so.1").probe.supported().name in ("off", "unsupported")


def test_a_library_that_is_none_is_unsupported(follow: Start, tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    one = follow(nvml_library=str(tmp_path / "libnvidia-ml.so.1"))
    one.until(lambda: one.state is not None and one.state.name == "unsupported")
    one.until(lambda: one.probe._child is None)


def test_the_child_goes_when_its_agent_was_killed(compiled: Path, control: nvml.Control) -> None:
    code = (
        "import os, time\nfrom misstep.agent.gpu.process import Child\n"
        f"child = Child({str(compiled)!r}, 0.2)\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    agent.kill()
    agent.wait()
    agent.stdout.close()
    deadline = time.monotonic() + 60
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_child_loads_next_to_nothing(compiled: Path, control: nvml.Control) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import misstep.agent.gpu.child; "
        "print(*sorted(m for m in sys.modules if '.' not in m or m.startswith('misstep')))"
    )
    root = str(Path(gpu_probe.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "typing",
        "re",
        "enum",
        "collections",
        "dataclasses",
        "signal",
        "subprocess",
        "json",
        "logging",
    }
    assert {m for m in loaded if m.startswith("misstep")} == {
        "misstep", "misstep.agent", "misstep.agent.gpu", "misstep.agent.gpu.child", "misstep.agent.gpu.codes", "misstep.agent.gpu.device",
        "misstep.agent.gpu.nvml", "misstep.agent.gpu.readings", "misstep.agent.gpu.wire",
    }  # fmt: skip


@pytest.mark.parametrize(("second", "own"), [("kthreadd", False), ("python3", True), ("", True)])
def test_a_pid_namespace_of_one_s_own_is_known(tmp_path: Path, second: str, own: bool) -> None:
    for pid, name in ((1, "systemd"), (2, second)):
        if name:
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    assert process.own_namespace(str(tmp_path)) is own


def test_pids_of_another_namespace_are_said(follow: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_probe, "own_namespace", lambda: True)
    one = follow()
    one.until(lambda: one.points)
    assert one.state is not None
    assert (one.state.name, "another namespace" in one.state.reason) == ("ok", True)
    assert "hostPID" in one.state.remedy
