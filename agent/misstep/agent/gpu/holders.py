"""Which processes hold which GPU, since when, and whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from misstep.agent import owners
from misstep.agent.context import Context
from misstep.agent.kubelet.allocations import Allocations, attributes
from misstep.agent.otlp import Value
from misstep.agent.records import Records
from misstep.agent.workload import Process
from misstep.core import names
from misstep.core.clock import SECOND

if TYPE_CHECKING:
    from misstep.agent.kubelet.resources import Given

_KEPT = 4096
_PATIENCE = 5 * SECOND
"""So long a holder may stay unknown to the process table before it is told of by its pid alone, and without a session
before it is given that of its command."""


class Gpu:
    """A GPU as the child found it.

    Attributes:
        pci: address as the kernel writes it, which names it for ever.
        minor: its number in ``/dev/nvidia<number>``.
    """

    __slots__ = ("driver", "entity", "index", "links", "memory", "minor", "model", "pci", "power", "uuid")

    def __init__(self, host: str, row: list[str]) -> None:
        index, self.uuid, self.pci, self.model, memory, power, links, self.minor, self.driver = row
        self.index, self.memory, self.power, self.links = int(index), int(memory), float(power), int(links)
        self.entity = f"gpu/{host[:12]}/{self.pci}" if self.pci else ""

    def instance(self, number: int | str) -> str:
        """Entity of an instance of MIG."""
        return f"{self.entity}/{number}"

    def identity(self) -> dict[str, Value]:
        """Attributes that name it."""
        return {names.HW_ID: self.pci, names.GPU_INDEX: self.index, names.GPU_UUID: self.uuid}


class _Hold:
    __slots__ = ("given", "instance", "pid", "since", "size", "told")

    def __init__(self, pid: int, size: int, instance: int, since: int) -> None:
        self.pid, self.size, self.instance, self.since = pid, size, instance, since
        self.told: tuple[str, str, Given | None] | None = None
        self.given: Given | None = None


class Holders:
    """Tells who takes and who leaves a GPU, and again when it becomes known to which session a holder belongs."""

    def __init__(self, context: Context, allocations: Allocations) -> None:
        self._context, self._workload, self._allocations = context, context.workload, allocations
        self._held: dict[tuple[str, int, int], _Hold] = {}

    def update(self, gpu: Gpu, rows: list[list[str]], out: Records) -> None:
        """Take the list of one GPU's processes."""
        now = {(gpu.pci, int(pid), int(instance)): int(size) for pid, size, instance in rows}
        for key in [key for key in self._held if key[0] == gpu.pci and key not in now]:
            self._release(gpu, self._held.pop(key), out)
        for key, size in now.items():
            held = self._held.get(key)
            if held is None and len(self._held) < _KEPT:
                held = self._held[key] = _Hold(key[1], size, key[2], out.now)
                if self._workload.find(held.pid) is None:
                    self._workload.register(held.pid)
            if held is not None:
                held.size = size
        self.refresh({gpu.pci: gpu}, out)

    def refresh(self, gpus: dict[str, Gpu], out: Records) -> None:
        """Tell of those of whom more is known than was told."""
        for (pci, _, _), held in self._held.items():
            process = self._workload.find(held.pid)
            if process is not None:
                self._allocations.claim(pci, held.instance, process)
        for (pci, _, _), held in self._held.items():
            gpu = gpus.get(pci)
            if gpu is None:
                continue
            process = self._workload.find(held.pid)
            if process is None and out.now - held.since < _PATIENCE:
                continue
            if process is not None and not process.session and out.now - held.since >= _PATIENCE:
                self._adopt(process, out)
            known = ("", "", None) if process is None else self._known(pci, held, process)
            if known != held.told:
                held.told = known
                self._tell(gpu, held, process, out)

    def session(self, gpu: Gpu) -> str:
        """The session whose processes hold a GPU; empty where they are of several, or of none."""
        found = {held.told[1] for key, held in self._held.items() if key[0] == gpu.pci and held.told}
        return found.pop() if len(found) == 1 else ""

    def _known(self, pci: str, held: _Hold, process: Process) -> tuple[str, str, Given | None]:
        """Entity, session, and to whom kubelet gave the GPU; it is asked soon about one that is held by a newcomer in a pod."""
        held.given = self._allocations.owner(pci, held.instance, process) or held.given
        if held.told is None and held.given is None and owners.owner(process.cgroup).get(names.POD):
            self._allocations.missed = True
        return self._workload.entity(process), process.session, held.given

    def _adopt(self, process: Process, out: Records) -> None:
        """A process that nobody else claims belongs to the command under `misstep run` that started it."""
        if process.role in ("registered", "command") and "RANK" not in process.environment:
            process.session = self._workload.command_session(process.pid, out)

    def _tell(self, gpu: Gpu, held: _Hold, process: Process | None, out: Records) -> None:
        out.event(
            "hw.gpu.process",
            entity=held.told[0] if held.told else "",
            session=held.told[1] if held.told else "",
            state="held",
            time=held.since,
            attributes={**gpu.identity(), names.GPU_ENTITY: gpu.entity, **self._about(gpu, held, process)},
        )

    def _release(self, gpu: Gpu, held: _Hold, out: Records) -> None:
        if held.told is None:
            return
        process = self._workload.find(held.pid)
        # One that still holds another instance of it still uses the GPU.
        last = not any(key[0] == gpu.pci and key[1] == held.pid for key in self._held)
        out.event(
            "hw.gpu.process",
            entity=held.told[0],
            session=held.told[1],
            state="released",
            body=f"held for {(out.now - held.since) / SECOND:.0f} s",
            attributes={
                **gpu.identity(), names.GPU_ENTITY: gpu.entity if last else "", **self._about(gpu, held, process)
            },
        )  # fmt: skip

    def _about(self, gpu: Gpu, held: _Hold, process: Process | None) -> dict[str, Value]:
        found: dict[str, Value] = {names.PID: held.pid, names.GPU_MEMORY: held.size}
        if held.instance:
            found[names.MIG_INSTANCE] = str(held.instance)
            found[names.MIG_ENTITY] = gpu.instance(held.instance)
        if held.given is not None:
            found |= attributes(held.given)
        if process is not None:
            environment = process.environment
            found |= {
                names.PROCESS_START: process.start,
                names.PROCESS_TITLE: process.title,
                names.PROCESS_ROLE: process.role,
                names.COMMAND: process.command,
                names.CGROUP: process.cgroup,
                names.RANK: environment.get("RANK", ""),
                names.WORLD_SIZE: environment.get("WORLD_SIZE", ""),
                names.RAY_NODE: environment.get("RAY_NODE_ID", ""),
                **owners.owner(process.cgroup),
            }
            if environment.get("SLURM_JOB_ID"):
                found[names.SLURM_JOB] = environment["SLURM_JOB_ID"]
        return found
