"""One Ray session: what is known of it, whether its stream is heard, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from misstep.agent import pids
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, failing, off
from misstep.agent.ray import cluster
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.workload import Exit
from misstep.core.clock import SECOND

_SILENT_AFTER = 45 * SECOND
"""Monotonic nanoseconds after which a stream that is switched on and says nothing counts as failing: Ray's agent takes 5 s to start, and on a loaded machine 30."""
_START_STREAM = 'misstep run -- COMMAND, or: eval "$(misstep env ray)" before ray start'


class RaySession:
    """One Ray session as far as this machine sees it.

    Attributes:
        name: Ray's.
        session: ours.
        processes: its raylets and GCS server here, by pid, with their start ticks.
        head: whether its GCS runs, or ran, here.
        ended: monotonic nanoseconds of its end, 0 while it lives.
    """

    def __init__(self, name: str, session: str, found: int) -> None:
        self.name = name
        self.session = session
        self.found = found
        self.processes: dict[int, tuple[RayProcess, int]] = {}
        self.gone: dict[int, RayProcess] = {}
        self.head = False
        self.gcs_pid = 0
        self.gcs_gone = 0
        self.ended = 0
        self.told: dict[str, Value] = {}

    def any(self) -> RayProcess | None:
        """What we know of the cluster, best from a raylet that lives."""
        held = [process for process, _ in self.processes.values()] or list(self.gone.values())
        return max(held, key=lambda process: (bool(process.dashboard), bool(process.folder)), default=None)

    @property
    def folder(self) -> str:
        """The session's folder on this machine, or empty."""
        return next(
            (
                p.folder
                for p in [*[held for held, _ in self.processes.values()], *self.gone.values()]
                if p.folder
            ),
            "",
        )

    @property
    def dashboard(self) -> str:
        """``http://host:port`` of the dashboard, or empty."""
        known = self.any()
        return known.dashboard if known is not None else ""

    @property
    def nodes(self) -> list[RayProcess]:
        """The raylets here that live."""
        return [process for process, _ in self.processes.values() if process.pid != self.gcs_pid]

    def sends(self, port: int) -> bool:
        """Whether its raylets were told to send events to this machine's port."""
        known = self.any()
        if known is None or not known.stream or not known.events:
            return False
        address = urlsplit(known.events)
        return address.hostname in ("127.0.0.1", "localhost") and address.port == port

    def driver_state(self, hooked: bool | None) -> SourceState:
        """Whether an exception of the driver would be told.

        Args:
            hooked: whether the newest driver was started with the hook; None before there is one.
        """
        known = self.any()
        if hooked is None:
            hooked = known is not None and known.started_by != "found"
        return OK if hooked else off("the driver was started without the hook", "misstep run -- COMMAND")

    def stream_state(self, heard: bool, port: int, monotonic: int) -> SourceState:
        """Whether its event stream is heard, and why not.

        Args:
            heard: whether events came in.
            port: of our receiver.
        """
        if heard:
            known = self.any()
            if known is not None and (0, 0) < known.release < cluster.WORKERS_SINCE:
                return OK._replace(
                    reason=f"Ray {known.version} sends no worker events; those come from its dashboard"
                )
            return OK
        known = self.any()
        if known is None:
            return off("no process of it is left")
        if (0, 0) < known.release < cluster.EVENTS_SINCE:
            since = ".".join(map(str, cluster.EVENTS_SINCE))
            return off(
                f"Ray {known.version} has no event stream that we read",
                f"pip install -U 'ray[default]>={since}'",
            )
        if known.extra == "no":
            return off(
                "ray is installed without [default], and then sends no events", "pip install 'ray[default]'"
            )
        if not known.stream:
            return off("this Ray was started without its event stream", _START_STREAM)
        if not self.sends(port):
            return off(
                f"this Ray sends its events to {known.events or 'nobody'}, not to this agent", _START_STREAM
            )
        if monotonic - self.found < _SILENT_AFTER:
            return OK
        return failing(
            "Ray is set to send its events to this agent, and none came",
            f"grep -i aggregator {self.folder}/logs/dashboard_agent.log",
        )

    def how_it_ended(self, exit_of: Callable[[int], Exit | None]) -> tuple[str, str]:
        """(``ended`` or ``lost``, how we know), by the end of its GCS and of the process that started it."""
        _, creator = cluster.started_at(self.name)
        ending = exit_of(self.gcs_pid)
        if creator and not pids.start_ticks(creator):
            driver = exit_of(creator)
            how = ""
            if driver is not None:
                how = f" (signal {driver.signal})" if driver.signal else f" (status {driver.code})"
            return (
                "ended",
                f"the process that started this cluster, pid {creator}, is gone{how}, and its cluster went with it",
            )
        if ending is None:
            said = _last_words(self.folder)
            return (
                ("ended", f"its GCS is gone; its log ends with: {said}")
                if said
                else ("lost", "its GCS is gone without a word")
            )
        if ending.signal in (0, 15) and not ending.code:
            return "ended", "its GCS was shut down" + (" by SIGTERM" if ending.signal else "")
        return (
            "lost",
            f"its GCS ended with {f'signal {ending.signal}' if ending.signal else f'status {ending.code}'}",
        )


def _last_words(folder: str) -> str:
    """What a GCS wrote when it was asked to stop, or an empty string."""
    try:
        with open(f"{folder}/logs/gcs_server.out", "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next(
        (line[-160:] for line in reversed(lines) if "SIGTERM" in line or "shutting down" in line.lower()), ""
    )
