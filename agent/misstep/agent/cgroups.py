"""Memory of the cgroups that the workload runs in: a limit below the machine's is where most kills come from."""

from __future__ import annotations

import os

from misstep.agent.records import Records
from misstep.agent.series import Series, declared
from misstep.agent.workload import Workload
from misstep.core import names

_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where version 2 writes ``max``."""
_LAYOUTS = (
    ("/sys/fs/cgroup", "memory.current", "memory.max"),
    ("/sys/fs/cgroup/unified", "memory.current", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.usage_in_bytes", "memory.limit_in_bytes"),
)
_REFRESH = 5


class _Group:
    __slots__ = ("limit", "limit_series", "usage", "usage_series")

    def __init__(self, path: str, usage: int, limit: int) -> None:
        self.usage, self.limit = usage, limit
        held = {names.CGROUP: path}
        self.usage_series: Series = declared("cgroup.memory.usage", held)
        self.limit_series: Series = declared("cgroup.memory.limit", held)


class Cgroups:
    """Follows the cgroups of live workload processes, the root cgroup left out."""

    def __init__(self, workload: Workload, layouts: tuple[tuple[str, str, str], ...] = _LAYOUTS) -> None:
        self._workload, self._layouts = workload, layouts
        self._groups: dict[str, _Group | None] = {}
        self._until_refresh = 0

    def check(self, out: Records) -> None:
        """Add a point for each cgroup's usage and limit."""
        self._until_refresh -= 1
        if self._until_refresh < 0:
            self._until_refresh = _REFRESH - 1
            self._refresh()
        for group in self._groups.values():
            if group is None:
                continue
            try:
                out.point(group.usage_series, int(os.pread(group.usage, 64, 0)))
                limit = os.pread(group.limit, 64, 0).strip()
            except (OSError, ValueError):
                continue  # the cgroup was removed; the next refresh drops it
            if limit != b"max" and int(limit) < _UNLIMITED:
                out.point(group.limit_series, int(limit))

    def close(self) -> None:
        """Give back the descriptors."""
        for path in list(self._groups):
            self._drop(path)

    def _refresh(self) -> None:
        wanted = {process.cgroup for process in self._workload.processes()} - {"", "/"}
        for path in set(self._groups) - wanted:
            self._drop(path)
        for path in sorted(wanted - set(self._groups)):
            self._groups[path] = self._open(path)

    def _open(self, path: str) -> _Group | None:
        for root, usage, limit in self._layouts:
            opened: list[int] = []
            try:
                for name in (usage, limit):
                    opened.append(os.open(f"{root}{path}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                for held in opened:
                    os.close(held)
                continue
            return _Group(path, opened[0], opened[1])
        return None

    def _drop(self, path: str) -> None:
        group = self._groups.pop(path)
        if group is not None:
            os.close(group.usage)
            os.close(group.limit)
