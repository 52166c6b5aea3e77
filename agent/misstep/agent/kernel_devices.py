"""Kernel lines about devices and file servers: which one, and whether it failed or came back.

Forms: drivers/net/ethernet/mellanox/mlx5/core/{health,events}.c, arch/x86/kernel/cpu/mce/core.c, drivers/edac/edac_mc.c,
drivers/edac/mce_amd.c, drivers/firmware/efi/cper.c, mm/memory-failure.c, drivers/pci/pcie/{aer,dpc}.c, block/blk-core.c,
drivers/nvme/host/{pci,core}.c, net/sunrpc/clnt.c, fs/ext4/super.c, fs/xfs/xfs_fsops.c, kernel/watchdog.c, and NVIDIA's
open-gpu-kernel-modules for NVSwitch (SXid).
"""

from __future__ import annotations

import re
from typing import NamedTuple

FAILED, CORRECTED, RECOVERED = "failed", "corrected", "recovered"


class Device(NamedTuple):
    """A line about a device.

    Attributes:
        kind: ``nvswitch``, ``mlx5``, ``mce``, ``edac``, ``aer``, ``disk``, ``nvme``, ``nfs``, ``filesystem`` or ``lockup``.
        name: PCI address, device or server; empty where the line names none.
        number: of an SXid, else 0.
        process: pid and name of a process that was killed for it, where the line names one.
    """

    kind: str
    name: str
    state: str
    number: int = 0
    process: tuple[int, str] = (0, "")


_FORMS = (
    ("nvswitch", FAILED, re.compile(r"SXid \((?:PCI:)?(?P<name>[0-9a-fA-F:.]+)\): (?P<number>\d+)")),
    ("mlx5", FAILED, re.compile(
        r"^mlx5_core (?P<name>[0-9a-fA-F:]+\.\d)[ :].*(?:health compromised|insufficient power|Port module event\[error\]|"
        r"fatal error|device's health|cmd_out_err.*failed|Fatal firmware|Health issue observed.*(?:ERROR|CRITICAL|ALERT|EMERGENCY))"
    )),
    ("mlx5", FAILED, re.compile(r"^mlx5_core (?P<name>[0-9a-fA-F:]+\.\d) \S+: Link down")),
    ("mlx5", RECOVERED, re.compile(r"^mlx5_core (?P<name>[0-9a-fA-F:]+\.\d) \S+: Link up")),
    ("mlx5", FAILED, re.compile(r"^infiniband (?P<name>\w+): .*mlx5_cmd_out_err.*failed")),
    ("mce", FAILED, re.compile(r"^mce: (?:\[Hardware Error\]: )?(?P<name>CPU ?\d+)?.*(?:Machine Check|Uncorrected|Fatal)")),
    ("mce", CORRECTED, re.compile(r"^mce: \[Hardware Error\]: (?P<name>)Machine check events logged")),
    ("mce", CORRECTED, re.compile(r"^\[Hardware Error\]: (?P<name>)(?:Corrected|Deferred) error")),
    ("mce", FAILED, re.compile(r"^\[Hardware Error\]: (?P<name>)(?:Uncorrected|System Fatal)")),
    ("mce", CORRECTED, re.compile(r"^\{\d+\}\[Hardware Error\]: (?P<name>)event severity: corrected")),
    ("mce", FAILED, re.compile(r"^\{\d+\}\[Hardware Error\]: (?P<name>)event severity: (?:recoverable|fatal)")),
    ("mce", FAILED, re.compile(
        r"^(?:Memory failure|MCE)[: ].*?(?P<name>)(?:Killing|Sending SIGBUS to) (?P<process>.{1,15}):(?P<pid>\d+) (?:early )?due to hardware memory corruption"
    )),
    ("edac", CORRECTED, re.compile(r"^EDAC (?P<name>\w+): \d+ CE ")),
    ("edac", FAILED, re.compile(r"^EDAC (?P<name>\w+): \d+ UE ")),
    ("aer", FAILED, re.compile(
        r"AER: (?:Multiple )?Uncorrect(?:able|ed) \((?:Non-Fatal|Fatal)\) error (?:message )?received(?: from|:) (?P<name>[0-9a-fA-F:.]+)"
    )),
    ("aer", CORRECTED, re.compile(
        r"AER: (?:Multiple )?Correct(?:able|ed) error (?:message )?received(?: from|:) (?P<name>[0-9a-fA-F:.]+)"
    )),
    ("aer", FAILED, re.compile(r"^pcieport (?P<name>[0-9a-fA-F:.]+): DPC: containment event")),
    ("nvme", FAILED, re.compile(
        r"^nvme (?P<name>nvme\d+): (?:I/O .*timeout|controller is down|Device not ready|Disabling device after reset failure|Removing after probe failure)"
    )),
    ("disk", FAILED, re.compile(r"(?:I/O|critical (?:medium|target|nexus)) error, dev (?P<name>[\w-]+), sector \d")),
    ("nfs", FAILED, re.compile(r"^(?:nfs|lockd): server (?P<name>\S+) not responding")),
    ("nfs", RECOVERED, re.compile(r"^(?:nfs|lockd): server (?P<name>\S+) OK")),
    ("filesystem", FAILED, re.compile(r"^[\w-]+ \((?P<name>[\w./-]+)\): (?:Remounting filesystem read-only|.*Shutting down filesystem)")),
    ("lockup", FAILED, re.compile(r"(?:soft|hard) (?:lockup|LOCKUP) (?:- |on |detected on )?(?P<name>(?:CPU|cpu)[# ]?\d+)")),
)  # fmt: skip
_HINTS = (
    "SXid", "mlx5", "mce:", "[Hardware Error]", "hardware memory", "EDAC", "AER:", "DPC:", "nvme", " error, dev ", "server ", "filesystem",
    "lockup", "LOCKUP",
)  # fmt: skip


def read(text: str) -> Device | None:
    """The device that a line is about; None for all other lines."""
    if not any(hint in text for hint in _HINTS):
        return None
    for kind, state, form in _FORMS:
        found = form.search(text)
        if found:
            held = found.groupdict()
            name = held["name"] or ""
            return Device(
                kind, name if kind == "nfs" else name.strip().lower(), state, int(held.get("number") or 0),
                (int(held.get("pid") or 0), held.get("process") or ""),
            )  # fmt: skip
    return None
