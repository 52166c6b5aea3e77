"""What kernel lines mean: OOM kills, invalid accesses, hung tasks, Xids, lost GPUs, devices; the rest by severity.

Forms: mm/oom_kill.c, arch/x86/mm/fault.c, arch/*/kernel/traps.c, kernel/hung_task.c, NVIDIA's open-gpu-kernel-modules
(``nvidia/src/.../nv-xid``), where the MIG form puts ``GPU-I:`` and ``GPU-CI:`` after the PCI address.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from misstep.agent import kernel_devices
from misstep.agent.otlp import Value
from misstep.core import names

_OOM_CONTEXT = re.compile(
    r"^oom-kill:constraint=(\w+),.*?(?:oom_memcg=([^,]*),)?task_memcg=([^,]*),task=.*,pid=(\d+),uid=\d+"
)
_OOM_KILL = re.compile(r"(?:[Oo]ut of memory|oom\.group set).*?: Killed process (\d+) \((.*?)\)(?: |,)")
_SEGFAULT = re.compile(r"^(.{1,15})\[(\d+)\]: segfault at ")
_TRAP = re.compile(r"^traps: (.{1,15})\[(\d+)\] (?:trap |general protection)")
_HUNG = re.compile(r"^INFO: task (.{1,15}):(\d+) blocked (?:in I/O wait )?for more than \d+ seconds")
_XID = re.compile(
    r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)(?: GPU-I:(\d+)(?: GPU-CI:(\d+))?)?\): (\d+)(?:, pid='?(\d+)'?, name=([^,]*))?"
)
_PREVIOUS = re.compile(r" caused by previous Xid (\d+)")
_OFF_THE_BUS = re.compile(r"NVRM: GPU (?:at )?(?:PCI:)?([0-9a-fA-F:]+)(?:\.\d)?:.*GPU has fallen off the bus")
_DUMP = re.compile(
    r"^(?:[\s\[]|Code:|RIP:|RSP:|R[A-Z0-9]{2}:|[CDEF]S:|CR\d:|Call Trace|Modules linked|Hardware name:|CPU: \d|Workqueue:|---\[)"
)
"""Lines inside a trace: the line before them says what it was about."""


class Line(NamedTuple):
    """A kernel line with its meaning.

    Attributes:
        pid: of the process that it is about, 0 if none.
        gpu: PCI address of the GPU that it is about, or empty.
        state: of the event's subject, or empty.
    """

    event: str
    attributes: dict[str, Value]
    pid: int = 0
    gpu: str = ""
    state: str = ""


class Reader:
    """Reads line after line, because one line of an OOM kill tells the cgroup and the next the process."""

    def __init__(self) -> None:
        self._oom: dict[int, dict[str, Value]] = {}

    def read(self, priority: int, text: str) -> Line | None:
        """What a record says; None when nobody needs to know.

        Args:
            priority: syslog severity, 0 (emergency) to 7 (debug).
        """
        if "oom-kill:" in text or "ut of memory" in text or "oom.group" in text:
            found = self._memory(text)
            if found is not None or text.startswith("oom-kill:"):
                return found
        if "Xid (" in text and "SXid (" not in text:
            return _xid(text)
        for pattern, event in (
            (_SEGFAULT, "kernel.segfault"),
            (_TRAP, "kernel.segfault"),
            (_HUNG, "kernel.hung_task"),
        ):
            match = pattern.search(text)
            if match:
                return Line(event, {names.PROCESS_NAME: match[1], names.PID: int(match[2])}, int(match[2]))
        lost = _OFF_THE_BUS.search(text)
        if lost:
            address = lost[1].lower()
            return Line("hw.gpu.state", {names.HW_ID: address}, gpu=address, state="lost")
        device = kernel_devices.read(text)
        if device is not None:
            return _device(device)
        if text.startswith("NVRM: ") or (priority <= 4 and not _DUMP.match(text)):
            return Line("kernel.message", {})
        return None

    def _memory(self, text: str) -> Line | None:
        context = _OOM_CONTEXT.search(text)
        if context:
            held: dict[str, Value] = {names.OOM_CONSTRAINT: context[1]}
            group = context[2] or context[3] if context[1] == "CONSTRAINT_MEMCG" else ""
            if group:
                held[names.CGROUP] = group
            self._oom = {int(context[4]): held}
            return None
        kill = _OOM_KILL.search(text)
        if kill is None:
            return None
        pid = int(kill[1])
        return Line(
            "kernel.oom_kill", {names.PROCESS_NAME: kill[2], names.PID: pid, **self._oom.pop(pid, {})}, pid
        )


def _device(device: kernel_devices.Device) -> Line:
    held: dict[str, Value] = {names.KERNEL_SUBJECT: device.kind, names.HW_ID: device.name}
    if device.number:
        held[names.SXID] = device.number
    if device.process[0]:
        held[names.PID], held[names.PROCESS_NAME] = device.process
    return Line("kernel.device", held, state=device.state)


def _xid(text: str) -> Line | None:
    match = _XID.search(text)
    if match is None:
        return Line("kernel.message", {})
    address, instance, compute, code, pid, name = match.groups()
    held: dict[str, Value] = {names.XID: int(code), names.HW_ID: address.lower()}
    if instance is not None:
        held[names.MIG_INSTANCE] = (
            f"{int(instance)}/{int(compute)}" if compute is not None else str(int(instance))
        )
    if pid:
        held[names.PID] = int(pid)
        held[names.PROCESS_NAME] = name
    previous = _PREVIOUS.search(text)
    if previous:
        held[names.XID_CAUSE] = int(previous[1])
    return Line("hw.gpu.xid", held, int(pid or 0), address.lower())
