"""What kubelet gave to whom: read, joined with the driver's GPUs and the pods' processes, and told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.gpu.holders import Gpu, Holders
from misstep.agent.identity import Host
from misstep.agent.kubelet import probe as kubelet_probe
from misstep.agent.kubelet import resources
from misstep.agent.kubelet.allocations import Allocations, Place
from misstep.agent.kubelet.probe import PodResourcesProbe
from misstep.agent.kubelet.resources import Device, Given
from misstep.agent.probe import SourceState
from misstep.agent.records import Records
from misstep.agent.workload import Process, Workload
from misstep.core.clock import SystemClock
from misstep.core.settings import AgentSettings, Settings

from .conftest import allocatable, container, listed, pod

HOST = Host("3d1219c7c4c5404aaa1f6d2a48adfda4", "n1", "6ce5bd0205244c2fb0bd769691970735", "n1-3d1219c7c4c5")
UIDS = [f"{letter * 8}-1111-2222-3333-444455556666" for letter in "abcd"]


def uuid(gpu: int) -> str:
    return f"GPU-00000000-0000-4000-8000-00000000000{gpu}"


def gpu(index: int) -> Gpu:
    row = [
        str(index),
        uuid(index),
        f"0000:{0x18 + 0x10 * index:02x}:00",
        "H100",
        "1",
        "700",
        "18",
        str(index),
        "595",
    ]
    return Gpu(HOST.id, row)


class Told(NamedTuple):
    name: str
    state: str
    attributes: dict[str, Any]


class Node:
    """The probe of kubelet and the holders of eight GPUs."""

    def __init__(self, folder: Path, socket: Path | None) -> None:
        settings = Settings(data=folder)
        path = str(socket or folder / "none" / "pod-resources" / "kubelet.sock")
        settings = replace(settings, agent=replace(AgentSettings(), kubelet_socket=path))
        self.workload = Workload(HOST.id, "local")
        context = Context(settings, HOST, None, self.workload, Coverage(HOST.entity), SystemClock())  # type: ignore[arg-type]
        self.allocations = Allocations()
        self.probe = PodResourcesProbe(context, self.allocations)
        self.holders = Holders(context, self.allocations)
        self.gpus = {one.pci: one for one in map(gpu, range(8))}
        for one in self.gpus.values():
            for key in (one.uuid, one.minor):
                self.allocations.know(key, Place(one.entity, one.pci, 0))
        self.told: list[Told] = []
        self.state: SourceState | None = None

    def check(self) -> SourceState | None:
        out = Records(time.time_ns())
        self.state = self.probe.check(out.now, out)
        self.holders.refresh(self.gpus, out)
        self._take(out)
        return self.state

    def _take(self, out: Records) -> None:
        for record in ScopeLogs.FromString(b"".join(out.events)).log_records:
            held = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in record.attributes}
            self.told.append(Told(record.event_name, held.pop("misstep.state", ""), held))

    def until(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not ready():
            assert time.monotonic() < deadline, (self.state, self.told)
            time.sleep(0.01)
            self.check()

    def process(self, pid: int, uid: str, host: str = "") -> Process:
        """A process in a pod, as containerd with systemd has it."""
        found = Process(pid, pid)
        dashed = uid.replace("-", "_")
        found.cgroup = f"/kubepods.slice/kubepods-pod{dashed}.slice/cri-containerd-{pid:064x}.scope"
        found.environment = {"HOSTNAME": host} if host else {}
        self.workload.add(found)
        return found

    def hold(self, index: int, *held: tuple[int, int]) -> None:
        """Who holds a GPU: (pid, MIG instance)."""
        out = Records(time.time_ns())
        self.holders.update(gpu(index), [[str(pid), "1", str(instance)] for pid, instance in held], out)
        self._take(out)

    def names(self, pid: int) -> str:
        """Pod and container of a process's GPU as it was told last."""
        told = [
            one.attributes
            for one in self.told
            if one.name == "hw.gpu.process" and one.attributes["process.pid"] == pid
        ]
        return "/".join(
            str(told[-1].get(f"k8s.{key}.name", "-")) for key in ("namespace", "pod", "container")
        )

    def of(self, state: str) -> list[dict[str, Any]]:
        return [one.attributes for one in self.told if one.name == "hw.gpu.allocation" and one.state == state]


@pytest.fixture
def node(tmp_path: Path, kubelet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(kubelet_probe, "_EVERY", 0.1)
    monkeypatch.setattr(kubelet_probe, "_SOON", 0.05)
    held = Node(tmp_path, kubelet.path)
    yield held
    held.probe.close()


# -- reading -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "found"),
    [
        (uuid(3), Device(uuid(3), 0)),
        (uuid(3) + "::7", Device(uuid(3), 0)),
        ("MIG-4f2fb3d1-3f0e-5d8b-a1f5-1d7b1c2a9e11", Device("MIG-4f2fb3d1-3f0e-5d8b-a1f5-1d7b1c2a9e11", 0)),
        (f"MIG-{uuid(3)}/2/0", Device(uuid(3), 2)),
        ("nvidia0", Device("0", 0)),
        ("nvidia0/gi3", Device("0", 3)),
        ("nvidia0/gi3/vgpu1", Device("0", 3)),
        ("gpu-5", Device("5", 0)),
        ("gpu-5-mig-1g.10gb-19-0", Device("5", 0)),
        ("mlx5_0", None),
        ("", None),
        ("nvidia0; rm -rf /", None),
    ],
)
def test_names_of_devices(name: str, found: Device | None) -> None:
    assert resources.device(name) == found


def test_an_answer_is_read() -> None:
    answer = listed(
        pod("ml", "train-0", container("main", uuid(0), uuid(1)), container("sidecar")),
        pod("ml", "share-0", container("serve", f"{uuid(2)}::0", resource="nvidia.com/gpu.shared")),
        pod(
            "ml", "claim-0", container("main", claims=(("gpu.nvidia.com", "gpu-3"), ("net.example", "gpu-9")))
        ),
        pod("kube-system", "proxy", container("proxy", "mlx5_1", resource="rdma/hca")),
    )
    found = resources.listing(answer)
    assert found.pods == {("ml", "train-0"), ("ml", "share-0"), ("ml", "claim-0"), ("kube-system", "proxy")}
    assert found.given == {
        Given("ml", "train-0", "main", Device(uuid(0), 0)),
        Given("ml", "train-0", "main", Device(uuid(1), 0)),
        Given("ml", "share-0", "serve", Device(uuid(2), 0)),
        Given("ml", "claim-0", "main", Device("3", 0)),
    }
    assert resources.allocatable(allocatable(uuid(0), uuid(1))) == {Device(uuid(0), 0), Device(uuid(1), 0)}
    assert resources.listing(b"") == (frozenset(), frozenset())


def test_an_answer_that_is_cut_anywhere_is_refused_or_shorter() -> None:
    answer = listed(*(pod("ml", f"train-{n}", container("main", uuid(n))) for n in range(8)))
    whole = resources.listing(answer)
    for end in range(len(answer)):
        try:
            found = resources.listing(answer[:end])
        except ValueError:
            continue
        assert found.given < whole.given


@pytest.mark.parametrize(
    "answer",
    [
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\xff" * 40,
        b"\x0b\x0a\x00",
        b"\x08\x01",
        b"\x0a\x02\x0a\x05",
        b"\x0a\x00" * 60_000,
        listed(*(pod("ml", f"p{n}") for n in range(1025))),
        listed(pod("ml", "p", container("c", *(f"{uuid(1)}" + f"{n:x}" for n in range(5000))))),
    ],
    ids=["cut", "long", "endless", "group", "number", "inside", "fields", "pods", "devices"],
)
def test_what_no_node_says_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|more|number"):
        resources.listing(answer)


# -- joining -----------------------------------------------------------------------------------------
def test_a_process_is_known_by_its_pod_and_container(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = listed(
        pod("ml", "train-0", container("main", uuid(3)), container("log"))
    )
    node.process(4711, UIDS[0])
    node.hold(3, (4711, 0))
    node.until(lambda: node.names(4711) == "ml/train-0/main")
    node.until(lambda: len(node.of("given")) == 2)
    assert node.of("given")[-1] == {
        "misstep.entity": "gpu/3d1219c7c4c5/0000:48:00", "hw.id": "0000:48:00", "k8s.namespace.name": "ml", "k8s.pod.name": "train-0",
        "k8s.container.name": "main", "k8s.pod.uid": UIDS[0], "misstep.pod": f"pod/{UIDS[0]}",
    }  # fmt: skip
    assert node.state is not None and node.state.name == "ok"
    kubelet.answers[resources.LIST] = listed()
    node.until(lambda: node.of("returned"))
    assert node.of("returned")[0]["misstep.pod"] == f"pod/{UIDS[0]}"
    assert node.names(4711) == "ml/train-0/main", "what was known of a process stays known"


def test_a_gpu_for_several_is_told_apart_by_host_name(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = listed(
        *(pod("ml", f"share-{n}", container("main", f"{uuid(1)}::{n}")) for n in range(3))
    )
    node.process(1, UIDS[0], "share-0")
    node.process(2, UIDS[1], "share-1")
    node.process(3, UIDS[2])
    node.hold(1, (1, 0), (2, 0), (3, 0))
    node.until(lambda: node.names(1) == "ml/share-0/main")
    assert (node.names(2), node.names(3)) == ("ml/share-1/main", "-/-/-")


def test_one_who_uses_what_others_were_given_is_not_taken_for_them(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = listed(
        pod("ml", "train-0", container("main", uuid(0))), pod("ops", "dcgm-x", container("dcgm"))
    )
    node.process(1, UIDS[0])
    node.process(2, UIDS[1], "dcgm-x")
    outside = Process(3, 3)
    outside.cgroup = "/user.slice/user-1000.slice/session-3.scope"
    node.workload.add(outside)
    node.hold(0, (1, 0), (2, 0), (3, 0))
    node.until(lambda: node.names(1) == "ml/train-0/main")
    assert (node.names(2), node.names(3)) == ("-/-/-", "-/-/-")


def test_two_pods_that_hold_what_one_was_given_are_both_left_unnamed(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = listed(pod("ml", "train-0", container("main", uuid(0))))
    node.process(1, UIDS[0])
    node.process(2, UIDS[1])
    node.hold(0, (1, 0), (2, 0))
    node.until(lambda: node.of("given"))
    node.hold(0, (1, 0), (2, 0))
    assert (node.names(1), node.names(2)) == ("-/-/-", "-/-/-")
    assert "k8s.pod.uid" not in node.of("given")[-1]


def test_instances_of_mig(node: Node, kubelet: Any) -> None:
    mig = "MIG-4f2fb3d1-3f0e-5d8b-a1f5-1d7b1c2a9e11"
    one = gpu(0)
    node.allocations.know(mig, Place(one.instance(1), one.pci, 1))
    kubelet.answers[resources.LIST] = listed(
        pod("ml", "a", container("main", mig, resource="nvidia.com/mig-1g.10gb")),
        pod("ml", "b", container("main", "nvidia0/gi2")),
    )
    node.process(1, UIDS[0])
    node.process(2, UIDS[1])
    node.hold(0, (1, 1), (2, 2))
    node.until(lambda: node.names(1) == "ml/a/main" and node.names(2) == "ml/b/main")
    assert {held["misstep.entity"] for held in node.of("given")} == {one.instance(1), one.instance(2)}


def test_a_pod_that_comes_again_under_its_name_is_another(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = listed(pod("ml", "train-0", container("main", uuid(3))))
    first = node.process(1, UIDS[0])
    node.hold(3, (1, 0))
    node.until(lambda: node.names(1) == "ml/train-0/main")
    node.workload.remove(first)
    node.process(2, UIDS[1])
    node.hold(3, (2, 0))
    node.until(lambda: node.of("given")[-1].get("k8s.pod.uid") == UIDS[1])


def test_a_new_pod_has_not_the_uid_of_one_that_had_its_name(node: Node, kubelet: Any) -> None:
    mine = listed(pod("ml", "train-0", container("main", uuid(3))))
    kubelet.answers[resources.LIST] = mine
    process = node.process(1, UIDS[0])
    node.hold(3, (1, 0))
    node.until(lambda: node.of("given") and "k8s.pod.uid" in node.of("given")[-1])
    node.hold(3)
    node.workload.remove(process)
    kubelet.answers[resources.LIST] = listed()
    node.until(lambda: node.of("returned"))
    before = len(node.of("given"))
    kubelet.answers[resources.LIST] = mine
    node.until(lambda: len(node.of("given")) > before)
    assert "k8s.pod.uid" not in node.of("given")[-1]


def test_a_gpu_that_kubelet_no_longer_has_to_give(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.ALLOCATABLE] = allocatable(*map(uuid, range(8)))
    node.until(lambda: kubelet.calls[resources.ALLOCATABLE] > 1)
    kubelet.answers[resources.ALLOCATABLE] = allocatable(*(uuid(n) for n in range(8) if n != 5))
    node.until(lambda: node.of("withdrawn"))
    assert [held["misstep.entity"] for held in node.of("withdrawn")] == ["gpu/3d1219c7c4c5/0000:68:00"]
    kubelet.answers[resources.ALLOCATABLE] = allocatable(*map(uuid, range(8)))
    node.until(lambda: node.of("offered"))


# -- asking ------------------------------------------------------------------------------------------
def test_a_newcomer_makes_it_ask_soon(node: Node, kubelet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelet_probe, "_EVERY", 600.0)
    node.until(lambda: node.state is not None and kubelet.calls[resources.ALLOCATABLE] == 1)
    for _ in range(20):
        time.sleep(0.01)
        node.check()
    assert kubelet.calls[resources.LIST] == 1
    kubelet.answers[resources.LIST] = listed(pod("ml", "train-0", container("main", uuid(3))))
    node.process(4711, UIDS[0])
    node.hold(3, (4711, 0))
    node.until(lambda: node.names(4711) == "ml/train-0/main")
    calls = kubelet.calls[resources.LIST]
    node.process(4712, UIDS[1], "train-0")
    node.hold(6, (4712, 0))  # one that kubelet gave to nobody makes it ask once, not again and again
    for _ in range(40):
        time.sleep(0.01)
        node.check()
    assert kubelet.calls[resources.LIST] == calls + 1


def test_an_older_kubelet_lists_all_the_same(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.ALLOCATABLE] = grpc.StatusCode.UNIMPLEMENTED
    kubelet.answers[resources.LIST] = listed(pod("ml", "train-0", container("main", uuid(3))))
    node.until(lambda: node.of("given"))
    assert node.state is not None and node.state.name == "ok"


def test_a_kubelet_that_fails_is_said_and_heard_again(node: Node, kubelet: Any) -> None:
    kubelet.answers[resources.LIST] = grpc.StatusCode.RESOURCE_EXHAUSTED
    node.until(lambda: node.state is not None and node.state.name == "failing")
    assert node.state is not None and "asked too often" in node.state.reason
    kubelet.answers[resources.LIST] = b"\x0a\xff"
    node.until(lambda: node.state is not None and "cut short" in node.state.reason)
    kubelet.answers[resources.LIST] = listed()
    node.until(lambda: node.state is not None and node.state.name == "ok")


def test_without_kubernetes_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    node = Node(tmp_path, None)
    assert node.check() is None
    node.process(1, UIDS[0])
    node.hold(0, (1, 0))
    state = node.check()
    assert state is not None
    assert (state.name, "is not there" in state.reason) == ("unsupported", True)
    assert "mount" in state.remedy


def test_in_a_pod_without_the_socket_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    node = Node(tmp_path, None)
    state = node.check()
    assert state is not None and state.name == "unsupported"
