"""Reading /proc/<pid>: what a line means, and as few system calls as it takes. Formats: proc(5)."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

_LIMIT = 128 * 1024
_NO_DISKS = ("loop", "ram", "zram", "dm-", "sr", "fd", "md")


class Stat(NamedTuple):
    """What we take of /proc/<pid>/stat.

    Attributes:
        name: the kernel's name of the process, at most 15 bytes.
        state: one letter, ``R``, ``S``, ``D``, ``Z``, ``T``, …
        cpu: clock ticks in user and system mode.
        start: clock ticks since boot.
        memory: resident bytes.
    """

    name: str
    state: str
    parent: int
    threads: int
    cpu: int
    start: int
    memory: int


def parse_stat(line: bytes) -> Stat:
    """Take a stat line apart; the name may hold spaces and brackets, so the last bracket ends it.

    Raises:
        ValueError: it is not such a line.
    """
    close = line.rindex(b")")
    field = line[close + 2 :].split(b" ", 22)
    if len(field) < 22:
        raise ValueError("a stat line has more fields")
    return Stat(
        line[line.index(b"(") + 1 : close].decode("utf-8", "replace"),
        chr(field[0][0]),
        int(field[1]),
        int(field[17]),
        int(field[11]) + int(field[12]),
        int(field[19]),
        int(field[21]) * PAGE,
    )


def sample(line: bytes) -> tuple[bytes, bytes, int, int, int]:
    """Of a stat line what is read each second: name, state letter, threads, clock ticks of CPU, resident bytes.

    Half the cost of `parse_stat`, and it is the agent's innermost loop.

    Raises:
        ValueError: it is not such a line.
    """
    close = line.rindex(b")")
    field = line[close + 2 :].split(b" ", 22)
    if len(field) < 22:
        raise ValueError("a stat line has more fields")
    name = line[line.index(b"(") + 1 : close]
    return name, field[0], int(field[17]), int(field[11]) + int(field[12]), int(field[21]) * PAGE


def read(path: str, limit: int = _LIMIT) -> bytes:
    """The beginning of a file.

    Raises:
        OSError: it cannot be read.
    """
    held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(held, limit)
    finally:
        os.close(held)


def arguments(root: str, pid: int) -> list[str]:
    """The command line; empty for kernel threads and zombies.

    Raises:
        OSError: it cannot be read.
    """
    held = read(f"{root}/{pid}/cmdline").rstrip(b"\0")
    return held.decode("utf-8", "replace").split("\0") if held else []


def environment(root: str, pid: int, wanted: frozenset[str]) -> dict[str, str]:
    """The wanted variables that a process was started with, and no other.

    Raises:
        OSError: it cannot be read; of other users' processes only root may.
    """
    found: dict[str, str] = {}
    for pair in read(f"{root}/{pid}/environ").split(b"\0"):
        key, equals, value = pair.partition(b"=")
        if equals:
            name = key.decode("utf-8", "replace")
            if name in wanted:
                found[name] = value.decode("utf-8", "replace")
    return found


def cgroup(root: str, pid: int) -> str:
    """Path of the cgroup that accounts for a process's memory: version 2's, else version 1's memory controller's.

    Raises:
        OSError: it cannot be read.
    """
    unified = memory = ""
    for line in read(f"{root}/{pid}/cgroup").decode("utf-8", "replace").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            unified = path
        elif "memory" in controllers.split(","):
            memory = path
    return memory or unified


def is_disk(name: str) -> bool:
    """Whether a block device is a whole disk: not a partition (``sda1``, ``nvme0n1p3``, ``mmcblk0p1``), which its disk
    counts as well, and not made of others.
    """
    if name.startswith(_NO_DISKS):
        return False
    if name.startswith(("nvme", "mmcblk")):
        head, letter, tail = name.rpartition("p")
        return not (letter and tail.isdigit() and head[-1:].isdigit())
    return not (name[:2] in ("sd", "vd", "hd", "xv") and name[-1:].isdigit())


def boot_time() -> int:
    """When the machine started, Unix nanoseconds; a process's start is this plus its start ticks."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
