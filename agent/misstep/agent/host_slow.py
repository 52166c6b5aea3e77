"""What of the machine changes slowly: filesystems, disk latency, NFS, throttled cgroups, the kernel's clock.

Formats: proc(5), Documentation/admin-guide/iostats.rst, Documentation/admin-guide/cgroup-v2.rst, adjtimex(2);
``mountstats`` as the kernel's net/sunrpc/stats.c writes it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

from misstep.agent import procfs
from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState
from misstep.agent.records import Records
from misstep.agent.series import Series, declared
from misstep.core import names

_LOCAL_FILESYSTEMS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "f2fs", "vfat")
)
"""Asking a network filesystem whose server is gone for its size would hang the agent."""
_SKIPPED_MOUNTS = (
    "/proc", "/sys", "/dev/pts", "/run/user", "/boot", "/snap", "/var/lib/docker", "/var/lib/kubelet/pods",
)  # fmt: skip
_MOUNTS = 64
_MOUNTSTATS = 1024 * 1024
_CPU = ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct")
_MEMORY = (("/sys/fs/cgroup", "memory.events"), ("/sys/fs/cgroup/memory", "memory.oom_control"))
_TIMEX = struct.Struct("iqqqqi")  # modes, offset, freq, maxerror, esterror, status
_UNSYNCHRONISED, _NANOSECONDS = 0x0040, 0x2000


class SlowHostProbe:
    """Reads every ten seconds; its points are a part of what ``host`` says.

    Args:
        root: where procfs is mounted.
        cgroups: what stands before the roots of the cgroup file systems.
    """

    source = "host"
    interval = 10.0
    follows_events = False

    def __init__(self, context: Context, root: str = "/proc", cgroups: str = "") -> None:
        self._workload = context.workload
        self._root, self._cgroups = root, cgroups
        self._boot = procfs.boot_time()
        self._series: dict[tuple[str, ...], Series] = {}

    def supported(self) -> SourceState:
        """Always: each part is left out where it is not there."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read all of it; whether the machine can be read at all is for `HostProbe` to say."""
        self._filesystems(out)
        self._disks(out)
        self._nfs(out)
        self._groups(out)
        self._clock(out)
        return None

    def close(self) -> None:
        """No file is held open."""

    def _add(self, out: Records, value: float, metric: str, *values: str) -> None:
        key = (metric, *values)
        found = self._series.get(key)
        if found is None:
            attributes = dict(zip(names.metric(metric).attributes, values, strict=True))
            found = self._series[key] = declared(metric, attributes, self._boot)
        out.point(found, value)

    # -- files -------------------------------------------------------------------------------------
    def _filesystems(self, out: Records) -> None:
        seen: set[tuple[int, int]] = set()
        for mount in self._local_mounts():
            try:
                held = os.statvfs(mount)
                device = (os.stat(mount).st_dev, held.f_blocks)
            except OSError:
                continue  # unmounted just now, or not ours to see
            if held.f_blocks == 0 or device in seen:
                continue
            seen.add(device)
            for state, blocks in (("used", held.f_blocks - held.f_bfree), ("free", held.f_bavail)):
                self._add(out, blocks * held.f_frsize, "system.filesystem.usage", mount, state)
            for state, count in (("used", held.f_files - held.f_ffree), ("free", held.f_favail)):
                if held.f_files:
                    self._add(out, count, "system.filesystem.inodes", mount, state)

    def _local_mounts(self) -> list[str]:
        found = [
            mount
            for mount, kind in self._mounts()
            if kind in _LOCAL_FILESYSTEMS and not mount.startswith(_SKIPPED_MOUNTS)
        ]
        return found[:_MOUNTS]

    def _mounts(self) -> Iterator[tuple[str, str]]:
        for row in self._read(f"{self._root}/self/mounts").decode("utf-8", "replace").splitlines():
            field = row.split(" ", 3)
            if len(field) == 4:
                yield field[1].replace("\\040", " "), field[2]

    def _disks(self, out: Records) -> None:
        for line in self._read(f"{self._root}/diskstats").splitlines():
            field = line.split()
            if len(field) < 14 or field[3] == field[7] == b"0":
                continue
            name = field[2].decode("utf-8", "replace")
            if not procfs.is_disk(name):
                continue
            for direction, at in (("read", 3), ("write", 7)):
                self._add(out, int(field[at]), "system.disk.operations", name, direction)
                self._add(out, int(field[at + 3]) / 1000, "system.disk.operation_time", name, direction)
            self._add(out, int(field[11]), "system.disk.in_flight", name)

    def _nfs(self, out: Records) -> None:
        if not any(kind.startswith("nfs") for _, kind in self._mounts()):
            return
        mount = ""
        totals: dict[str, list[int]] = {}
        for line in self._read(f"{self._root}/self/mountstats").decode("utf-8", "replace").splitlines():
            if line.startswith("device "):
                head, _, rest = line.partition(" with fstype ")
                mount = head.partition(" mounted on ")[2] if rest.startswith("nfs") else ""
                continue
            name, colon, rest = line.strip().partition(": ")
            numbers = rest.split()
            # ops, transmissions, timeouts, bytes out, bytes in, queue ms, round trip ms, whole ms[, errors]
            if (
                mount
                and colon
                and name.isupper()
                and len(numbers) in (8, 9)
                and rest.replace(" ", "").isdigit()
            ):
                held = totals.setdefault(mount, [0, 0, 0, 0])
                operations, sent, timeouts, whole = (int(numbers[at]) for at in (0, 1, 2, 7))
                for at, value in enumerate((operations, max(0, sent - operations), timeouts, whole)):
                    held[at] += value
        for mount, (operations, again, timeouts, whole) in totals.items():
            self._add(out, operations, "nfs.client.operations", mount)
            self._add(out, whole / 1000, "nfs.client.operation_time", mount)
            self._add(out, again, "nfs.client.retransmissions", mount)
            self._add(out, timeouts, "nfs.client.timeouts", mount)

    # -- cgroups -----------------------------------------------------------------------------------
    def _groups(self, out: Records) -> None:
        for path in sorted({process.cgroup for process in self._workload.processes()} - {"", "/"}):
            for root in _CPU:
                found = _pairs(self._read(f"{self._cgroups}{root}{path}/cpu.stat"))
                if "nr_throttled" in found:
                    stood = found.get("throttled_usec", 0) / 1e6 + found.get("throttled_time", 0) / 1e9
                    self._add(out, stood, "cgroup.cpu.throttled.time", path)
                    self._add(out, found["nr_throttled"], "cgroup.cpu.throttled.periods", path)
                    break
            for root, name in _MEMORY:
                found = _pairs(self._read(f"{self._cgroups}{root}{path}/{name}"))
                if "oom_kill" in found:
                    self._add(out, found["oom_kill"], "cgroup.memory.oom_kills", path)
                    break

    # -- clock -------------------------------------------------------------------------------------
    def _clock(self, out: Records) -> None:
        held = ctypes.create_string_buffer(512)  # struct timex is shorter; no mode is set, so it is only read
        if ctypes.CDLL(None).adjtimex(held) < 0:
            return
        _, offset, _, most, _, status = _TIMEX.unpack_from(held.raw)
        self._add(out, offset / (1e9 if status & _NANOSECONDS else 1e6), "system.clock.offset")
        self._add(out, most / 1e6, "system.clock.error.max")
        self._add(out, 0 if status & _UNSYNCHRONISED else 1, "system.clock.synchronized")

    def _read(self, path: str) -> bytes:
        try:
            return procfs.read(path, _MOUNTSTATS)
        except OSError:
            return b""


def _pairs(text: bytes) -> dict[str, int]:
    """Lines of ``name number``."""
    found: dict[str, int] = {}
    for line in text.decode("ascii", "replace").splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found
