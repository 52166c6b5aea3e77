"""What Xids mean for a job: NVIDIA's catalogue for Ampere and later, as far as a cause is read from it.

An Xid that only says that a process was stopped (45), or that a program did something wrong (13, 31, 43), blames
no hardware.
"""

from __future__ import annotations

from typing import NamedTuple


class Xid(NamedTuple):
    """One code.

    Attributes:
        kind: of the observation, empty for what is no fault of a GPU.
    """

    kind: str
    meaning: str


LOST, MEMORY, LINK, STOPPED = "gpu.lost", "gpu.memory_error", "gpu.link_error", "gpu.stopped"

XIDS = {
    13: Xid("", "an error of the program on the GPU, usually an access out of bounds"),
    31: Xid("", "an access of the program to memory that is not mapped"),
    43: Xid("", "the program on the GPU was stopped"),
    45: Xid("", "the work of a process was cleaned up"),
    46: Xid(STOPPED, "the GPU stopped processing"),
    48: Xid(MEMORY, "a double-bit ECC error"),
    62: Xid(STOPPED, "the GPU's own controller halted"),
    63: Xid("", "a memory row was replaced"),
    64: Xid(MEMORY, "a bad memory row could not be replaced"),
    74: Xid(LINK, "an NVLink error"),
    79: Xid(LOST, "it has fallen off the bus"),
    92: Xid("", "many single-bit errors"),
    94: Xid(MEMORY, "a contained memory error"),
    95: Xid(MEMORY, "an uncontained memory error"),
    109: Xid(STOPPED, "a context switch timed out"),
    110: Xid(STOPPED, "a security fault"),
    119: Xid(STOPPED, "its system processor (GSP) does not answer"),
    120: Xid(STOPPED, "an error of its system processor (GSP)"),
    136: Xid(LINK, "an NVLink could not be trained"),
    140: Xid(MEMORY, "an ECC error that was not recovered"),
    143: Xid(STOPPED, "it could not be initialised"),
    154: Xid("", "the driver asks for another recovery action"),
    155: Xid(LINK, "an NVLink was taken down"),
    158: Xid(STOPPED, "a fatal timeout"),
    167: Xid(STOPPED, "a fatal timeout of PCIe"),
    171: Xid(MEMORY, "an uncorrectable error of its DRAM"),
    172: Xid(MEMORY, "an uncorrectable error of its SRAM"),
}  # fmt: skip

_LINK5 = range(144, 151)
"""NVLink 5: each code tells of events of all severities, the text which."""


def read(code: int, text: str) -> Xid:
    """What an Xid means.

    Args:
        text: the kernel line, where there is one.
    """
    if code in _LINK5:
        return Xid(LINK if " Fatal" in text else "", "an NVLink error")
    return XIDS.get(code, Xid("", "an error that the driver reports"))
