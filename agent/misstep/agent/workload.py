"""The processes of the workload that this agent knows, shared by all probes and the receiver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from misstep.core.identity import process_id, ray_session

if TYPE_CHECKING:
    from misstep.agent.records import Records

_GONE_KEPT = 2048
"""Dead processes that are remembered, because questions about a pid come late."""


class Exit(NamedTuple):
    """How a process ended.

    Attributes:
        time: Unix nanoseconds.
        code: what it passed to ``exit``; None when a signal ended it.
        signal: number of the signal that ended it, or 0.
    """

    pid: int
    time: int
    code: int | None
    signal: int
    core: bool = False


class Process:
    """One process of the workload. The probe fills it; others read it.

    Attributes:
        start: clock ticks since boot; with the pid it names the process for ever.
        role: ``raylet``, ``gcs``, ``ray_worker``, ``ray_driver``, ``ray_system``, ``rank``, ``launcher``, ``command`` or ``registered``.
        command: the first command line that we saw, secrets redacted (Ray's workers overwrite theirs with a title).
        title: argv[0] as it is now, for example ``ray::tokenize``.
        environment: ids and addresses that it was started with (``RAY_*``, ``RANK``, ``WORLD_SIZE``, …), nothing else.
        unread: what we were not allowed to read of it, for example ``environ``.
        ray_session: Ray's name of its session, where it is known.
        cluster: the name in the address of Ray's event stream, where it is known.
    """

    __slots__ = (
        "cgroup", "cluster", "command", "environment", "parent", "pid", "ray_session", "role", "session",
        "start", "title", "unread",
    )  # fmt: skip

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start
        self.parent = 0
        self.role = ""
        self.command = ""
        self.title = ""
        self.cgroup = ""
        self.environment: dict[str, str] = {}
        self.unread: tuple[str, ...] = ()
        self.ray_session = ""
        self.cluster = ""
        self.session = ""


class Workload:
    """Who belongs to the workload, who did, and how it ended. All methods may be called from any thread.

    Args:
        host_id: for entity ids.
        site: first part of session names.
    """

    def __init__(self, host_id: str, site: str) -> None:
        self._host_id = host_id
        self._site = site
        self._lock = threading.Lock()
        self._live: dict[int, Process] = {}
        self._gone: dict[int, Process] = {}
        self._clusters: dict[str, str] = {}
        self._asked: dict[int, tuple[str, str]] = {}
        self.changes = 0
        """Counts who comes, goes or is registered, so that a look at all of them can be spared while it stands."""
        self.exit_of: Callable[[int], Exit | None] = lambda pid: None
        """How the newest process with this pid ended, while that is remembered; set by the probe of exits."""
        self.command_session: Callable[[int, Records], str] = lambda pid, out: ""
        """The session of the command under `misstep run` that a process belongs to, announced in the records; set by the receiver."""
        self.want_stacks: Callable[[str], bool] = lambda session: False
        """Have the stacks of a session's ranks taken now; False if none of them runs here. Set by the probe of torch."""

        self.release_gpus: Callable[[float | None], tuple[str, int]] = lambda seconds: ("absent", 0)
        """Let go of the GPUs for so many seconds, with 0 take them back, with None change nothing; how they stand then, and
        until when (Unix nanoseconds). Set by the probe of GPUs; any thread may call it."""

    def entity(self, process: Process) -> str:
        """``process/<host>/<pid>/<start>``."""
        return "process/" + process_id(self._host_id, process.pid, process.start)

    def processes(self, *roles: str) -> list[Process]:
        """Live processes, of these roles or of all, oldest first."""
        with self._lock:
            found = [p for p in self._live.values() if not roles or p.role in roles]
        return sorted(found, key=lambda p: p.start)

    def find(self, pid: int) -> Process | None:
        """The live process with this pid, else the newest dead one that is remembered."""
        with self._lock:
            return self._live.get(pid) or self._gone.get(pid)

    def is_live(self, pid: int, start: int) -> bool:
        """Whether the process is one that is watched, and has not been seen to end."""
        held = self._live.get(pid)
        return held is not None and held.start == start

    def session_of(self, pid: int) -> str:
        """Our session of a process, or an empty string."""
        process = self.find(pid)
        return process.session if process is not None else ""

    def register(self, pid: int, *, session: str = "", role: str = "registered") -> None:
        """Watch a process from now on that the process table would not give away (a driver, a command).

        It is looked at with the next check of the process probe; a pid that is gone by then is forgotten.
        """
        with self._lock:
            self._asked[pid] = (session, role)
            self.changes += 1

    def name_cluster(self, ray_session_name: str, cluster: str) -> str:
        """Say which cluster a Ray session belongs to; returns our session, which its processes carry from now on."""
        with self._lock:
            self._clusters[ray_session_name] = cluster
            session = self._session(ray_session_name)
            for process in self._live.values():
                if process.ray_session == ray_session_name:
                    process.cluster, process.session = cluster, session
        return session

    def session_name(self, ray_session_name: str) -> str:
        """Our session for Ray's, with the cluster name that was learned, else ``ray``."""
        with self._lock:
            return self._session(ray_session_name)

    def _session(self, ray_session_name: str) -> str:
        return str(ray_session(self._site, self._clusters.get(ray_session_name, "ray"), ray_session_name))

    # -- for the process probe ----------------------------------------------------------------------
    def take_asked(self) -> dict[int, tuple[str, str]]:
        """Registrations since the last call: pid → (session, role)."""
        with self._lock:
            asked, self._asked = self._asked, {}
            self.changes += len(asked)
        return asked

    def add(self, process: Process) -> None:
        """A process was found."""
        with self._lock:
            self._live[process.pid] = process
            self.changes += 1

    def remove(self, process: Process) -> None:
        """A process is gone; it stays findable for a while."""
        with self._lock:
            if self._live.get(process.pid) is process:
                del self._live[process.pid]
            self.changes += 1
            self._gone.pop(process.pid, None)
            self._gone[process.pid] = process
            while len(self._gone) > _GONE_KEPT:
                del self._gone[next(iter(self._gone))]
