"""The machine's memory as Ray's memory monitor sees it.

Ray takes the smaller of the machine and its cgroup (``src/ray/common/monitors/memory_monitor_utils.cc``
of 2.60: /proc/meminfo's MemTotal and MemAvailable; memory.max and memory.stat of the cgroup at
/sys/fs/cgroup, which in a container is the container's own).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MEGABYTE = 1024 * 1024


class Memory(NamedTuple):
    """Bytes."""

    used: int
    total: int

    @property
    def free(self) -> int:
        """What can still be taken."""
        return self.total - self.used


def read(root: Path = Path("/")) -> Memory:
    """Today's use and the limit that counts."""
    host = _host(root / "proc/meminfo")
    group = _group_v2(root / "sys/fs/cgroup") or _group_v1(root / "sys/fs/cgroup/memory")
    return group if group is not None and group.total < host.total else host


def _host(path: Path) -> Memory:
    fields = _fields(path)
    total, available = fields["MemTotal:"] * 1024, fields["MemAvailable:"] * 1024
    return Memory(total - available, total)


def _group_v2(folder: Path) -> Memory | None:
    limit, usage = _number(folder / "memory.max"), _number(folder / "memory.current")
    if limit is None or usage is None:
        return None
    stat = _fields(folder / "memory.stat")
    return Memory(usage - stat.get("inactive_file", 0) - stat.get("active_file", 0), limit)


def _group_v1(folder: Path) -> Memory | None:
    limit = _number(folder / "memory.limit_in_bytes")
    stat = _fields(folder / "memory.stat")
    if limit is None or "total_rss" not in stat:
        return None
    return Memory(stat["total_rss"], limit)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}
