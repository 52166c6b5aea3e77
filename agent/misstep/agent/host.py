"""The machine: CPU, memory, pressure, disks, network. Formats: proc(5), Documentation/accounting/psi.rst.

Files stay open and are read with pread: a tenth of what opening them each second costs.
"""

from __future__ import annotations

import os

from misstep.agent.cgroups import Cgroups
from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState, unsupported
from misstep.agent.procfs import TICKS, boot_time, is_disk
from misstep.agent.records import Records
from misstep.agent.series import Series, declared
from misstep.core import names

_MODES = (b"user", b"nice", b"system", b"idle", b"iowait", b"interrupt", b"softirq", b"steal")
_MEMORY = {
    b"MemTotal:": "limit",
    b"MemAvailable:": "available",
    b"MemFree:": "free",
    b"Cached:": "cached",
    b"Buffers:": "buffers",
}
_SECTOR = 512
_SKIPPED_INTERFACES = ("lo", "veth", "docker", "br-", "cni", "cali", "flannel", "virbr", "tunl", "dummy")


class HostProbe:
    """Reads the machine's counters each second; `SlowHostProbe` reads what changes slowly.

    Args:
        root: where procfs is mounted.
    """

    source = "host"
    follows_events = False

    def __init__(self, context: Context, root: str = "/proc") -> None:
        self.interval = context.settings.agent.interval
        self._root = root
        self._boot = boot_time()
        self._files: dict[str, int] = {}
        self._series: dict[tuple[str, ...], Series] = {}
        self._absent: set[str] = set()
        self._cgroups = Cgroups(context.workload)

    def supported(self) -> SourceState:
        """Whether the machine's counters can be read."""
        try:
            self._read("stat")
        except OSError as error:
            return unsupported(f"{self._root}/stat cannot be read ({error.strerror})")
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Read all of it; what this kernel does not have is left out and said."""
        for name, take in (
            ("stat", self._cpu),
            ("meminfo", self._memory),
            ("diskstats", self._disks),
            ("net/dev", self._network),
        ):
            held = self._optional(name)
            if held:
                take(held, out)
        for resource in ("cpu", "memory", "io"):
            held = self._optional(f"pressure/{resource}")
            if held:
                self._pressure(resource, held, out)
        self._cgroups.check(out)
        if self._absent:
            remedy = "boot with psi=1" if any(name.startswith("pressure/") for name in self._absent) else ""
            return SourceState("ok", f"not on this kernel: {', '.join(sorted(self._absent))}", remedy)
        return OK

    def close(self) -> None:
        """Give back the descriptors."""
        for held in self._files.values():
            os.close(held)
        self._files.clear()
        self._cgroups.close()

    # -- files -------------------------------------------------------------------------------------
    def _read(self, name: str) -> bytes:
        held = self._files.get(name)
        if held is None:
            held = self._files[name] = os.open(f"{self._root}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(held, 65536, 0)

    def _optional(self, name: str) -> bytes:
        if name in self._absent:
            return b""
        try:
            return self._read(name)
        except OSError:
            self._absent.add(name)  # PSI can be off at boot or not be compiled in
            return b""

    def _one(self, metric: str, *values: str) -> Series:
        """The series of a metric with these values of its declared attributes."""
        key = (metric, *values)
        found = self._series.get(key)
        if found is None:
            attributes = dict(zip(names.metric(metric).attributes, values, strict=True))
            found = self._series[key] = declared(metric, attributes, self._boot)
        return found

    # -- contents ----------------------------------------------------------------------------------
    def _cpu(self, held: bytes, out: Records) -> None:
        for mode, ticks in zip(_MODES, held[: held.index(b"\n")].split()[1:], strict=False):
            out.point(self._one("system.cpu.time", mode.decode()), int(ticks) / TICKS)

    def _memory(self, held: bytes, out: Records) -> None:
        found: dict[str, int] = {}
        for line in held.split(b"\n", 8)[:8]:
            field = line.split()
            if len(field) >= 2 and field[0] in _MEMORY:
                found[_MEMORY[field[0]]] = int(field[1]) * 1024
        if "limit" not in found or "available" not in found:
            return
        out.point(self._one("system.memory.limit"), found["limit"])
        found["used"] = found["limit"] - found["available"]
        for state in ("used", "available", "free", "cached", "buffers"):
            if state in found:
                out.point(self._one("system.memory.usage", state), found[state])

    def _pressure(self, resource: str, held: bytes, out: Records) -> None:
        for line in held.splitlines():
            stall, _, rest = line.partition(b" ")
            total = rest.rpartition(b"total=")[2]
            out.point(self._one("system.pressure.stall.time", resource, stall.decode()), int(total) / 1e6)

    def _disks(self, held: bytes, out: Records) -> None:
        for line in held.splitlines():
            field = line.split()
            name = field[2].decode("utf-8", "replace")
            if len(field) < 13 or field[3] == b"0" or not is_disk(name):
                continue
            out.point(self._one("system.disk.io", name, "read"), int(field[5]) * _SECTOR)
            out.point(self._one("system.disk.io", name, "write"), int(field[9]) * _SECTOR)
            out.point(self._one("system.disk.io_time", name), int(field[12]) / 1000)

    def _network(self, held: bytes, out: Records) -> None:
        for line in held.splitlines()[2:]:
            label, _, rest = line.partition(b":")
            name = label.strip().decode("utf-8", "replace")
            field = rest.split()
            if name.startswith(_SKIPPED_INTERFACES) or len(field) < 16:
                continue
            for way, at in (("receive", 0), ("transmit", 8)):
                out.point(self._one("system.network.io", name, way), int(field[at]))
                out.point(
                    self._one("system.network.errors", name, way), int(field[at + 2]) + int(field[at + 3])
                )
