"""Walks of the process table: which processes are the workload's."""

from __future__ import annotations

import os
from collections.abc import Container

from misstep.agent import procfs, roles
from misstep.agent.workload import Process, Workload

_KERNEL_THREADS = 2
"""pid of kthreadd, the parent of all kernel threads."""
_ANCESTORS = 4


class ProcessTable:
    """Remembers what it saw, so that a walk reads little of what did not change.

    Args:
        root: where procfs is mounted.
        ray_folder: only Ray sessions below it count; empty for all.
    """

    def __init__(self, workload: Workload, root: str = "/proc", *, ray_folder: str = "") -> None:
        self._workload, self._root = workload, root
        self._ray_folder = ray_folder.rstrip("/")
        self._ours: set[str] = set()
        self._seen: dict[int, tuple[int, str]] = {}
        self._kernel: set[int] = set()
        self._young: set[int] = set()
        self._newest = b""

    def newcomers(self) -> list[tuple[Process, str]]:
        """Workload processes among the pids that were not there at the last look; cheap when nothing was forked."""
        again = self._look_again()
        newest = self._newest_pid()
        if newest == self._newest:
            return self._look(sorted(again), again) if again else []
        self._newest = newest
        fresh = [pid for pid in self._pids() if pid not in self._seen and pid not in self._kernel]
        return self._look(fresh, again)

    def walk(self, watched: Container[int] = ()) -> list[tuple[Process, str]]:
        """Workload processes among all pids, those left out that did not change since they were last looked at.

        Args:
            watched: pids that somebody else keeps an eye on.
        """
        again = self._look_again()
        self._newest = self._newest_pid()
        pids = self._pids()
        present = set(pids)
        self._seen = {pid: held for pid, held in self._seen.items() if pid in present}
        self._kernel &= present
        return self._look([pid for pid in pids if pid not in self._kernel and pid not in watched], again)

    def inspect(self, pid: int, role: str, session: str) -> tuple[Process, str] | None:
        """One process that somebody vouches for; None when it is not there."""
        stat = self._stat(pid)
        if stat is None or stat.state in "ZX":
            return None
        self._seen[pid] = (stat.start, stat.name)
        process = self._describe(pid, stat, role)
        if process is None:
            return None
        process.session = process.session or session
        return process, stat.name

    def title(self, pid: int) -> str:
        """argv[0] as it is now."""
        try:
            words = procfs.arguments(self._root, pid)
        except OSError:
            return ""
        return words[0][:200] if words else ""

    def forget(self, pid: int) -> None:
        """A process is gone; whoever gets its pid is new."""
        self._seen.pop(pid, None)

    # -- looking -----------------------------------------------------------------------------------
    def _look_again(self) -> set[int]:
        """Take what was met last time for new: it may have been between fork and exec, and called like its parent."""
        again, self._young = self._young, set()
        for pid in again:
            self._seen.pop(pid, None)
        return again

    def _look(self, pids: list[int], again: set[int]) -> list[tuple[Process, str]]:
        found: list[tuple[Process, str]] = []
        stats = [(stat, pid) for pid in pids if (stat := self._stat(pid)) is not None]
        stats.sort(
            key=lambda pair: (pair[0].start, pair[1])
        )  # parents before children, also where pids have wrapped
        for stat, pid in stats:
            if stat.parent == _KERNEL_THREADS or pid == _KERNEL_THREADS:
                self._kernel.add(pid)
                continue
            mark = (stat.start, stat.name)
            before = self._seen.get(pid)
            if before == mark or stat.state in "ZX":
                continue
            self._seen[pid] = mark
            if before is None and pid not in again:
                self._young.add(pid)
            known = self._workload.find(pid)
            if known is not None and known.start == stat.start:
                continue  # watched already, or dead and counted; it only changed its name
            process = self._describe(pid, stat)
            if process is None:
                continue
            if self._is_fork(process):
                del self._seen[pid]  # it will be itself once it has called exec
                continue
            self._workload.add(process)  # its children may come next
            found.append((process, stat.name))
            if process.role in ("raylet", "gcs"):
                found += self._driver_of(process, [one.pid for one, _ in found])
        return found

    def _driver_of(self, daemon: Process, found: list[int]) -> list[tuple[Process, str]]:
        """The Python process that started Ray's daemons with `ray.init()`."""
        known = self._workload.find(daemon.parent)
        if daemon.parent <= 1 or daemon.parent in found or known is not None:
            return []
        stat = self._stat(daemon.parent)
        try:
            words = procfs.arguments(self._root, daemon.parent)
        except OSError:
            return []
        if (
            stat is None
            or not words
            or "python" not in os.path.basename(words[0])
            or roles.is_ray_start(words)
        ):
            return []
        process = self._describe(daemon.parent, stat, "ray_driver")
        if process is None:
            return []
        process.ray_session, process.session = daemon.ray_session, daemon.session
        self._workload.add(process)
        return [(process, stat.name)]

    def _describe(self, pid: int, stat: procfs.Stat, role: str = "") -> Process | None:
        """What a process is, or None for one that is not the workload's."""
        try:
            words = procfs.arguments(self._root, pid)
        except OSError:
            return None
        if not words and not role:
            return None
        vouched, role = bool(role), role or roles.role(stat.name, words)
        unread: tuple[str, ...] = ()
        environment: dict[str, str] = {}
        try:
            environment = procfs.environment(self._root, pid, roles.WANTED)
        except PermissionError:
            unread = ("environ",)
        except OSError:
            return None
        if not role:
            if not self._is_rank(stat.parent, environment):
                return None
            role = "rank"
        process = Process(pid, stat.start)
        process.parent, process.role, process.unread = stat.parent, role, unread
        process.environment = environment
        process.command, process.title = roles.shown(words), (words[0] if words else stat.name)[:200]
        try:
            process.cgroup = procfs.cgroup(self._root, pid)
        except OSError:
            pass  # it is gone by now; its exit tells the rest
        if role.startswith(("ray", "gcs")):
            self._place(process, words)
            if self._ray_folder and not vouched and not self._is_ours(process, words):
                return None
        return process

    def _is_ours(self, process: Process, words: list[str]) -> bool:
        """Whether the session of a Ray process lies below the only folder that is to be watched."""
        if any(f"{self._ray_folder}/" in f"{word}/" for word in words):
            if process.ray_session:
                self._ours.add(process.ray_session)
            return True
        return process.ray_session in self._ours

    def _is_fork(self, process: Process) -> bool:
        """Whether this still looks like its parent, because it has not called exec yet or never will."""
        above = self._workload.find(process.parent)
        return (
            above is not None
            and above.role == process.role
            and process.role in ("raylet", "gcs", "ray_worker")
        )

    def _is_rank(self, parent: int, environment: dict[str, str]) -> bool:
        """A rank has its number in the environment; so have the children that it forks, and they are not ranks."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return False
        above = self._workload.find(parent)
        return above is None or above.environment.get("RANK") != environment["RANK"]

    def _place(self, process: Process, words: list[str]) -> None:
        """Find a Ray process's session: in its arguments, else with the raylet above it."""
        process.ray_session = roles.ray_session_name(words)
        if not process.ray_session:
            above = self._above(process.parent)
            raylet = process.environment.get("RAY_RAYLET_PID", "")
            if raylet.isdigit():
                above = self._workload.find(int(raylet)) or above
            process.ray_session = above.ray_session if above is not None else ""
        if not process.ray_session:
            return
        cluster = roles.cluster_name(
            process.environment.get("RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR", "")
        )
        process.cluster = cluster
        if cluster:
            process.session = self._workload.name_cluster(process.ray_session, cluster)
        else:
            process.session = self._workload.session_name(process.ray_session)

    def _above(self, pid: int) -> Process | None:
        """The nearest ancestor that belongs to the workload."""
        for _ in range(_ANCESTORS):
            known = self._workload.find(pid)
            if known is not None:
                return known
            stat = self._stat(pid) if pid > 1 else None
            if stat is None:
                return None
            pid = stat.parent
        return None

    # -- reading -----------------------------------------------------------------------------------
    def _pids(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self._root) if name.isdigit())

    def _stat(self, pid: int) -> procfs.Stat | None:
        try:
            return procfs.parse_stat(procfs.read(f"{self._root}/{pid}/stat", 1024))
        except (OSError, ValueError):
            return None

    def _newest_pid(self) -> bytes:
        """The pid that was given out last in our namespace: the last field of /proc/loadavg, proc(5)."""
        return procfs.read(f"{self._root}/loadavg", 128).rpartition(b" ")[2]
