"""Kernel lines about devices and file servers: which one, and whether it failed or came back.

Forms: drivers/net/ethernet/mellanox/mlx5/core/{health,events}.c, arch/x86/kernel/cpu/mce/core.c, drivers/edac/edac_mc.c,
drivers/pci/pcie/aer.c, drivers/nvme/host/{pci,core}.c, net/sunrpc/clnt.c, fs/ext4/super.c, kernel/watchdog.c, and
NVIDIA's open-gpu-kernel-modules for NVSwitch (SXid).
"""

from __future__ import annotations

import re
from typing import NamedTuple

FAILED, CORRECTED, RECOVERED = "failed", "corrected", "recovered"


class Device(NamedTuple):
    """A line about a device.

    Attributes:
        kind: ``nvswitch``, ``mlx5``, ``mce``, ``edac``, ``aer``, ``nvme``, ``nfs``, ``filesystem`` or ``lockup``.
        name: PCI address, device or server; empty where the line names none.
        number: of an SXid, else 0.
    """

    kind: str
    name: str
    state: str
    number: int = 0


_FORMS = (
    ("nvswitch", FAILED, re.compile(r"SXid \((?:PCI:)?(?P<name>[0-9a-fA-F:.]+)\): (?P<number>\d+)")),
    ("mlx5", FAILED, re.compile(
        r"^mlx5_core (?P<name>[0-9a-fA-F:]+\.\d)[ :].*(?:health compromised|insufficient power|Port module event\[error\]|"
        r"fatal error|device's health|cmd_out_err.*failed|Fatal firmware)"
    )),
    ("mlx5", FAILED, re.compile(r"^infiniband (?P<name>\w+): .*mlx5_cmd_out_err.*failed")),
    ("mce", FAILED, re.compile(r"^mce: (?:\[Hardware Error\]: )?(?P<name>CPU ?\d+)?.*(?:Machine Check|Uncorrected|Fatal)")),
    ("edac", CORRECTED, re.compile(r"^EDAC (?P<name>\w+): \d+ CE ")),
    ("edac", FAILED, re.compile(r"^EDAC (?P<name>\w+): \d+ UE ")),
    ("aer", FAILED, re.compile(
        r"AER: (?:Multiple )?Uncorrect(?:able|ed) \((?:Non-Fatal|Fatal)\) error (?:message )?received(?: from|:) (?P<name>[0-9a-fA-F:.]+)"
    )),
    ("aer", CORRECTED, re.compile(
        r"AER: (?:Multiple )?Correct(?:able|ed) error (?:message )?received(?: from|:) (?P<name>[0-9a-fA-F:.]+)"
    )),
    ("nvme", FAILED, re.compile(
        r"^nvme (?P<name>nvme\d+): (?:I/O .*timeout|controller is down|Disabling device after reset failure|Removing after probe failure)"
    )),
    ("nfs", FAILED, re.compile(r"^(?:nfs|lockd): server (?P<name>\S+) not responding")),
    ("nfs", RECOVERED, re.compile(r"^(?:nfs|lockd): server (?P<name>\S+) OK")),
    ("filesystem", FAILED, re.compile(r"^[\w-]+ \((?P<name>[\w./-]+)\): (?:Remounting filesystem read-only|.*Shutting down filesystem)")),
    ("lockup", FAILED, re.compile(r"(?:soft|hard) (?:lockup|LOCKUP) (?:- |on |detected on )?(?P<name>(?:CPU|cpu)[# ]?\d+)")),
)  # fmt: skip
_HINTS = ("SXid", "mlx5", "mce:", "EDAC", "AER:", "nvme", "server ", "filesystem", "lockup", "LOCKUP")


def read(text: str) -> Device | None:
    """The device that a line is about; None for all other lines."""
    if not any(hint in text for hint in _HINTS):
        return None
    for kind, state, form in _FORMS:
        found = form.search(text)
        if found:
            held = found.groupdict()
            return Device(kind, (held["name"] or "").strip().lower() if kind != "nfs" else held["name"], state, int(held.get("number") or 0))  # fmt: skip
    return None
