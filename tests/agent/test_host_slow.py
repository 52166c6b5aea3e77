"""What changes slowly, on recorded files, and on this machine."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from misstep.agent.host_slow import SlowHostProbe
from misstep.agent.procfs import is_disk
from misstep.agent.records import Records
from misstep.agent.workload import Process

RECORDED = Path(__file__).parents[1] / "data" / "agent" / "proc"
MOUNTSTATS = """\
device /dev/vda mounted on / with fstype ext4
device filer:/models mounted on /mnt/models with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2,rsize=1048576,wsize=1048576,hard,proto=tcp,timeo=600,retrans=2
\tage:\t90061
\tcaps:\tcaps=0xfffbc0b7,wtmult=512,dtsize=1048576,bsize=0,namlen=255
\tsec:\tflavor=1,pseudoflavor=1
\tevents:\t1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
\tbytes:\t1 2 3 4 5 6 7 8
\tRPC iostats version: 1.1  p/v: 100003/4 (nfs)
\txprt:\ttcp 940 0 2 0 11 1207 1207 0 1311 0 14 14 78
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 1000 1003 2 212000 1048704000 15 42000 42100 0
\t       WRITE: 10 10 0 10487600 1360 0 900 910 0
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    root = tmp_path / "proc"
    shutil.copytree(RECORDED, root)
    (root / "self").mkdir()
    (root / "self" / "mounts").write_text(
        f"/dev/vda / ext4 rw 0 0\nfiler:/models /mnt/models nfs4 rw 0 0\nproc /proc proc rw 0 0\n/dev/vda {tmp_path} ext4 rw 0 0\n"
    )
    (root / "self" / "mountstats").write_text(MOUNTSTATS)
    return tmp_path


@pytest.fixture
def points(machine: Path, make_context: Any, read_points: Any) -> Any:
    context = make_context()

    def read() -> Any:
        probe = SlowHostProbe(context, str(machine / "proc"), str(machine))
        out = Records(1)
        assert probe.supported().name == "ok"
        assert probe.check(1, out) is None
        probe.close()
        return read_points(out)

    read.workload = context.workload  # type: ignore[attr-defined]
    return read


def test_a_recorded_machine(points: Any) -> None:
    found = points()
    # The second mount of a device is the first one again, and a dead NFS server would hang us.
    assert {key[1] for key in found if key[0].startswith("system.filesystem")} == {"/"}
    assert found["system.filesystem.inodes", "/", "free"] > 0
    assert {key[1] for key in found if key[0].startswith("system.disk")} == {"vda"}
    assert found["system.disk.operations", "vda", "read"] == 109309
    assert found["system.disk.operation_time", "vda", "write"] == 17.537
    assert found["system.disk.in_flight", "vda"] == 0


def test_nfs_is_read_without_asking_its_server(points: Any) -> None:
    found = points()
    assert {key: value for key, value in found.items() if key[0].startswith("nfs")} == {
        ("nfs.client.operations", "/mnt/models"): 1011,
        ("nfs.client.operation_time", "/mnt/models"): 43.01,
        ("nfs.client.retransmissions", "/mnt/models"): 3,
        ("nfs.client.timeouts", "/mnt/models"): 2,
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "sys/fs/cgroup/pod/cpu.stat": "usage_usec 5\nnr_periods 90\nnr_throttled 7\nthrottled_usec 2500000\n",
                "sys/fs/cgroup/pod/memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n",
            },
            (2.5, 7, 2),
        ),
        (
            {
                "sys/fs/cgroup/cpu,cpuacct/pod/cpu.stat": "nr_periods 90\nnr_throttled 7\nthrottled_time 2500000000\n",
                "sys/fs/cgroup/memory/pod/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            },
            (2.5, 7, 2),
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_a_cgroup_that_is_held_back(points: Any, machine: Path, files: Any, expected: Any) -> None:
    process = Process(7, 1)
    process.cgroup = "/pod"
    points.workload.add(process)
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    found = points()
    assert (
        found["cgroup.cpu.throttled.time", "/pod"],
        found["cgroup.cpu.throttled.periods", "/pod"],
        found["cgroup.memory.oom_kills", "/pod"],
    ) == expected


def test_the_clock_of_this_machine(points: Any) -> None:
    found = points()
    assert found["system.clock.synchronized",] in (0, 1)
    assert found["system.clock.error.max",] >= abs(found["system.clock.offset",])


def test_what_is_not_there_is_left_out(points: Any, machine: Path) -> None:
    shutil.rmtree(machine / "proc")
    assert {key[0].rpartition(".")[0] for key in points()} == {"system.clock", "system.clock.error"}


def test_partitions_are_their_disk_again() -> None:
    assert not any(is_disk(name) for name in ("sda1", "vda12", "nvme0n1p3", "mmcblk0p1", "dm-0", "loop3"))
    assert all(is_disk(name) for name in ("sda", "vda", "nvme0n1", "nvme1n1", "mmcblk0"))
