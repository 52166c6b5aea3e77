"""One GPU: who it is, what of it can be read, and how it stands."""

from __future__ import annotations

import struct

from misstep.agent.gpu import codes, nvml, readings
from misstep.agent.gpu.nvml import Library
from misstep.agent.gpu.readings import Buffer, Fields, Getter, Gpm, Links, Place

OK, LOST, RESET_REQUIRED = "ok", "lost", "reset_required"
_STATES = {codes.GPU_IS_LOST: LOST, codes.RESET_REQUIRED: RESET_REQUIRED}
_PROCESSES = 256


class Device:
    """A GPU by its index in NVML's order, which is that of the PCI bus.

    Attributes:
        state: ``ok``, ``lost`` or ``reset_required``.
        said: which call told that it is not ok.
        fast, slow: what is read each second and every 10 s, as (MIG instance, reading).
        instances: of MIG, as (number, uuid).
        changed: whether they are others than when the layout was told last.
        complete: whether nothing was dropped since the last survey.
    """

    def __init__(self, library: Library, index: int, place: Place) -> None:
        self._library, self._place = library, place
        self.index = index
        self.handle = 0
        self.uuid = self.pci = self.name = ""
        self.memory = self.power = self.links_count = 0.0
        self.minor = index
        self.instances: list[tuple[int, str]] = []
        self._mig_handles: list[int] = []
        self.state, self.said = OK, ""
        self.fast: list[tuple[str, Getter | Fields | Gpm]] = []
        self.slow: list[tuple[str, Getter | Fields | Gpm | Links]] = []
        self.links: Links | None = None
        self.changed = True
        self.complete = False
        self.mig = False
        self._small = Buffer(256)
        self._used = Buffer(_PROCESSES * nvml.PROCESS.size)

    # -- identity ------------------------------------------------------------------------------------
    def survey(self) -> None:
        """Find out who it is and what can be read of it; also whether a lost one is back."""
        code = self._ask("nvmlDeviceGetHandleByIndex_v2", self.index, self._small.address)
        if code:
            return
        self.handle = int(struct.unpack_from("<Q", self._small.view)[0])
        if self._identify():
            return
        self._drop()
        self.state, self.said = OK, ""
        self.mig = self._mig_mode()
        self.instances, self._mig_handles = [], []
        for arguments in readings.FAST:
            self._keep(self.fast, "", self._getter(self.handle, *arguments))
        self._keep(self.fast, "", Fields(self._library, self.handle, readings.FAST_FIELDS))
        if not self.mig:
            self._keep(self.fast, "", Gpm(self._library, self.handle, 0, readings.GPM))
        for arguments in readings.SLOW:
            self._keep(self.slow, "", self._getter(self.handle, *arguments))
        self._keep(self.slow, "", Fields(self._library, self.handle, readings.SLOW_FIELDS))
        count = self._link_count()
        self.links = Links(self._library, self.handle, count) if count else None
        if self.links is not None and self.links.present:
            self._keep(self.slow, "", self.links)
        if self.mig:
            self._survey_instances()
        self.changed, self.complete = True, self.state == OK

    def identity(self) -> tuple[object, ...]:
        """A row of the ``G`` frame, driver left out."""
        return (
            self.index,
            self.uuid,
            self.pci,
            self.name,
            int(self.memory),
            self.power,
            int(self.links_count),
            self.minor,
        )

    def fabric(self) -> tuple[int, int, int]:
        """State (3 is completed), health mask and summary of NVLink's fabric; zeros where there is none."""
        nvml.FABRIC.pack_into(self._small.view, 0, nvml.FABRIC_VERSION, 0, 0, 0, 0, 0)
        if self._ask("nvmlDeviceGetGpuFabricInfoV", self.handle, self._small.address):
            return (0, 0, 0)
        _, _, _, state, health, summary = nvml.FABRIC.unpack_from(self._small.view)
        return (int(state), int(health), int(summary))

    # -- reading -------------------------------------------------------------------------------------
    def read(self, slow: bool, values: list[float]) -> None:
        """Append the values of a tier; what fails is dropped from it until the next survey."""
        kept = self.slow if slow else self.fast
        begin, enter, failed = len(values), self._place.enter, []
        for entry in kept:
            reading = entry[1]
            enter(self.index, reading.number)
            code = reading.read(values)
            if code != codes.OK:
                if self._note(codes.NAMES[reading.number], code):
                    del values[begin:]
                    return
                failed.append(entry)
        if failed:
            self.changed, self.complete = True, False
            for entry in failed:
                kept.remove(entry)  # type: ignore[arg-type]

    def processes(self) -> list[tuple[int, int, int]] | None:
        """Who computes on it: pid, bytes, MIG instance (0 for the whole GPU); None when that cannot be read.

        With MIG only root is told of all instances at once; each one tells of its own to everybody.
        """
        found: list[tuple[int, int, int]] = []
        code = self._add_processes(self.handle, found)
        if code == codes.NO_PERMISSION and self._mig_handles:
            code = max([self._add_processes(handle, found) for handle in self._mig_handles])
        return None if code else sorted(found)

    def _add_processes(self, handle: int, found: list[tuple[int, int, int]]) -> int:
        struct.pack_into("<I", self._small.view, 0, _PROCESSES)
        code = self._ask(
            "nvmlDeviceGetComputeRunningProcesses_v3", handle, self._small.address, self._used.address
        )
        if code:
            return code
        count = min(struct.unpack_from("<I", self._small.view)[0], _PROCESSES)
        for pid, size, instance, _ in nvml.PROCESS.iter_unpack(self._used.view[: count * nvml.PROCESS.size]):
            whole = instance == nvml.NO_INSTANCE
            found.append((pid, 0 if size == 0xFFFFFFFFFFFFFFFF else size, 0 if whole else instance))
        return codes.OK

    def metrics(self, slow: bool) -> list[tuple[object, ...]]:
        """Rows of the ``L`` frame."""
        kept = self.slow if slow else self.fast
        return [(metric, self.index, instance) for instance, reading in kept for metric in reading.metrics]

    def same_mode(self) -> bool:
        """Whether MIG is as it was at the survey."""
        return self.state != OK or self._mig_mode() == self.mig

    # -- inside --------------------------------------------------------------------------------------
    def _ask(self, name: str, *arguments: int) -> int:
        self._place.enter(self.index, codes.NAMES.index(name))
        code = int(self._library[name](*arguments))
        self._note(name, code)
        return code

    def _note(self, name: str, code: int) -> bool:
        """Take a return code that means the whole GPU; True if it does."""
        state = _STATES.get(code)
        if state is None:
            return False
        self.state, self.said = state, name
        self._drop()
        return True

    def _drop(self) -> None:
        for _, reading in self.fast:
            if isinstance(reading, Gpm):
                reading.close()
        self.fast, self.slow, self.links = [], [], None
        self.changed, self.complete = True, False

    def _identify(self) -> int:
        for name, size in (("nvmlDeviceGetUUID", 96), ("nvmlDeviceGetName", 96)):
            code = self._ask(name, self.handle, self._small.address, size)
            if code:
                return code
            text = _text(self._small.view, size)
            self.uuid, self.name = (text, self.name) if name == "nvmlDeviceGetUUID" else (self.uuid, text)
        code = self._ask("nvmlDeviceGetPciInfo_v3", self.handle, self._small.address)
        if code:
            return code
        held = bytes(self._small.view[nvml.PCI_BUS_ID : nvml.PCI_SIZE]).partition(b"\0")[0]
        self.pci = address(held.decode("ascii", "replace"))
        if self._ask("nvmlDeviceGetMinorNumber", self.handle, self._small.address) == codes.OK:
            self.minor = struct.unpack_from("<I", self._small.view)[0]
        for name, form, scale in (
            ("nvmlDeviceGetMemoryInfo", "<Q", 1),
            ("nvmlDeviceGetEnforcedPowerLimit", "<I", 0.001),
        ):
            if self._ask(name, self.handle, self._small.address) == codes.OK:
                number = struct.unpack_from(form, self._small.view)[0] * scale
                self.memory, self.power = (number, self.power) if scale == 1 else (self.memory, number)
        return codes.GPU_IS_LOST if self.state != OK and not self.uuid else codes.OK

    def _getter(
        self, handle: int, name: str, arguments: tuple[int, ...], form: str,
        scales: tuple[float, ...], metrics: tuple[str, ...],
    ) -> Getter:  # fmt: skip
        return Getter(self._library, name, handle, arguments, form, scales, metrics)

    def _keep(self, kept: list, instance: str, reading: Getter | Fields | Gpm | Links) -> None:  # type: ignore[type-arg]
        """Keep a reading that answers."""
        if reading.metrics:
            self._place.enter(self.index, reading.number)
            code = reading.read([])
            if code == codes.OK:
                kept.append((instance, reading))
            else:
                self._note(codes.NAMES[reading.number], code)

    def _mig_mode(self) -> bool:
        code = self._ask("nvmlDeviceGetMigMode", self.handle, self._small.address, self._small.address + 8)
        return code == codes.OK and struct.unpack_from("<I", self._small.view)[0] == 1

    def _link_count(self) -> int:
        count = Fields(self._library, self.handle, ((91, 0, 1, "links"),))
        values: list[float] = []
        if not count.metrics or count.read(values):
            return 0
        self.links_count = values[0]
        return int(values[0])

    def _survey_instances(self) -> None:
        """Memory and GPM of each MIG instance, every 10 s."""
        small = self._small
        if self._ask("nvmlDeviceGetMaxMigDeviceCount", self.handle, small.address):
            return
        for place in range(struct.unpack_from("<I", small.view)[0]):
            if self._ask("nvmlDeviceGetMigDeviceHandleByIndex", self.handle, place, small.address):
                break
            handle = int(struct.unpack_from("<Q", small.view)[0])
            if self._ask("nvmlDeviceGetGpuInstanceId", handle, small.address):
                continue
            instance = int(struct.unpack_from("<I", small.view)[0])
            if self._ask("nvmlDeviceGetUUID", handle, small.address, 96) == codes.OK:
                self.instances.append((instance, _text(small.view, 96)))
            self._mig_handles.append(handle)
            name = str(instance)
            self._keep(self.slow, name, self._getter(handle, "nvmlDeviceGetMemoryInfo", (), "16xQ", (1,), ("hw.gpu.memory.usage",)))  # fmt: skip
            self._keep(self.slow, name, Gpm(self._library, self.handle, instance, readings.GPM[:4]))


def _text(view: memoryview, size: int) -> str:
    return bytes(view[:size]).partition(b"\0")[0].decode("utf-8", "replace")


def address(bus_id: str) -> str:
    """A PCI address as the kernel writes it in an Xid: ``00000000:3B:00.0`` is ``0000:3b:00``."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"
