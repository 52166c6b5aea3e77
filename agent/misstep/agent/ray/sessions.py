"""The Ray sessions of this machine: found by their processes or by their first event, watched, and closed.

Ray itself announces no end: `ray stop` or the death of a cluster leaves nodes, actors and tasks as they were last
reported. So the end is read off the processes.
"""

from __future__ import annotations

import json
import threading

from misstep.agent import pids, procfs
from misstep.agent.context import Context
from misstep.agent.otlp import Value
from misstep.agent.probe import OK, SourceState, off
from misstep.agent.ray import cluster
from misstep.agent.ray.session import RaySession
from misstep.agent.receiver import Receiver
from misstep.agent.records import INFO, WARNING, Records
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.identity import process_id

_CURSOR = "ray_session:"
_SEARCH_EVERY = 2 * SECOND
_GCS_MAY_RETURN = 3 * SECOND
_OWNERS = 1024
_KEEP_ENDED = 30 * SECOND
"""For so long the readers of an ended session's files go on."""


class RaySessions:
    """Probe of Ray's sessions, and the list of them for the probes that read one each; the receiver is part of it.

    Raises:
        UnavailableError: the receiver's port is taken.
    """

    source = "ray_events"
    interval = 1.0
    follows_events = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.RLock()
        self._sessions: dict[str, RaySession] = {}
        self._heard: dict[str, int] = {}
        self._nodes: dict[str, int] = {}
        self._owners: dict[int, str] = {}
        self._hooked: dict[str, bool] = {}
        self._next_search = 0
        self._boot = procfs.boot_time()
        self._recalled = False
        self._receiver = Receiver(
            context, locate=self.locate, heard=self.heard, owner=self.owner, admit=self.admit
        )
        self.port = self._receiver.port
        self._receiver.start()

    # -- for the receiver's thread -------------------------------------------------------------------
    def heard(self, name: str, cluster_name: str) -> None:
        """Events of a session came in."""
        with self._lock:
            first = name not in self._heard
            self._heard[name] = self._context.clock.monotonic()
            if len(self._heard) > 256:
                del self._heard[next(iter(self._heard))]
        if first:
            self._context.workload.name_cluster(name, cluster_name)

    def locate(self, session: str, role: str, node: str, pid: int) -> str:
        """``process/…`` of a raylet, worker or driver of a session, when its Ray node is on this machine; else empty."""
        workload = self._context.workload
        if not self._is_local(node):
            return ""
        if role == "raylet":
            pid = self._nodes.get(node, 0)
        known = workload.find(pid)
        start = known.start if known is not None else pids.start_ticks(pid)
        if role == "ray_driver":
            self._adopt(pid, session)
            with self._lock:
                self._hooked[session] = cluster.is_hooked(pid)
        if known is None or known.role in ("", "command", "registered"):
            workload.register(pid, session=session, role=role)
        return f"process/{process_id(self._context.host.id, pid, start)}" if start else ""

    def owner(self, pid: int) -> str:
        """Our session of a process that started a cluster, is its driver, or is a parent of one; or empty."""
        with self._lock:
            return self._owners.get(pid, "")

    def _adopt(self, pid: int, session: str) -> None:
        """A driver belongs to a session, and with it the commands that it was started by."""
        with self._lock:
            while pid > 1:
                self._owners.pop(pid, None)
                self._owners[pid] = session
                pid = pids.parent(pid)
            while len(self._owners) > _OWNERS:
                del self._owners[next(iter(self._owners))]

    def admit(self, user: int) -> bool:
        """Whether a user owns a Ray that we watch; our own user and root are admitted anyway."""
        with self._lock:
            return any(p.user == user for one in self._sessions.values() for p, _ in one.processes.values())

    def _is_local(self, node: str) -> bool:
        with self._lock:
            if node in self._nodes:
                return True
            now = self._context.clock.monotonic()
            if now < self._next_search:
                return False
            self._next_search = now + _SEARCH_EVERY
            for pid in cluster.find():
                process = cluster.read(pid)
                if process is not None and process.node:
                    self._nodes[process.node] = pid
            return node in self._nodes

    # -- for the other probes --------------------------------------------------------------------------
    def all(self) -> list[RaySession]:
        """Sessions that live, and those whose end is so fresh that their files may still grow."""
        with self._lock:
            return list(self._sessions.values())

    def streams(self, one: RaySession) -> bool:
        """Whether events of a session have come in."""
        with self._lock:
            return one.name in self._heard

    # -- the probe -------------------------------------------------------------------------------------
    def supported(self) -> SourceState:
        """Always: without Ray there is merely nothing to say."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Find, announce, watch and close sessions."""
        monotonic = self._context.clock.monotonic()
        if not self._recalled:
            self._recalled = True
            self._recall(monotonic)
        with self._lock:
            for pid in self._candidates(monotonic):
                self._meet(pid, monotonic)
            for one in list(self._sessions.values()):
                self._watch(one, now, monotonic, out)
        if any(not one.ended for one in self._sessions.values()):
            return None
        return off("no Ray runs on this machine")

    def close(self) -> None:
        """Stop receiving."""
        self._receiver.close()

    def _candidates(self, monotonic: int) -> list[int]:
        known = {pid for one in self._sessions.values() for pid in one.processes}
        found = [p.pid for p in self._context.workload.processes("raylet", "gcs") if p.pid not in known]
        heard = [name for name, at in self._heard.items() if monotonic - at < 10 * SECOND]
        if any(name not in self._sessions for name in heard) and monotonic >= self._next_search:
            self._next_search = monotonic + _SEARCH_EVERY
            found += [pid for pid in cluster.find() if pid not in known and pid not in found]
        return found

    def _meet(self, pid: int, monotonic: int) -> None:
        process = cluster.read(pid)
        start = pids.start_ticks(pid)
        if process is None or not start or not self._is_watched(process.folder):
            return
        workload = self._context.workload
        if process.events:
            workload.name_cluster(process.session, process.cluster)
        session = workload.session_name(process.session)
        one = self._sessions.get(process.session)
        if one is None:
            one = self._sessions[process.session] = RaySession(process.session, session, monotonic)
            _, creator = cluster.started_at(process.session)
            self._adopt(creator, session)
        one.session = session
        one.ended = 0
        gcs = cluster.is_gcs(pid)
        if gcs:
            one.head, one.gcs_pid, one.gcs_gone = True, pid, 0
        if process.node:
            self._nodes[process.node] = pid
        one.processes[pid] = (process, start)
        workload.register(pid, session=session, role="gcs" if gcs else "raylet")
        known = workload.find(pid)
        if known is not None and process.node:
            known.environment.setdefault(
                "RAY_NODE_ID", process.node
            )  # so that its exit says which node is lost

    def _is_watched(self, folder: str) -> bool:
        only = self._context.settings.agent.ray_folder.rstrip("/")
        return not only or folder.startswith(f"{only}/")

    def _watch(self, one: RaySession, now: int, monotonic: int, out: Records) -> None:
        if one.ended:
            if monotonic - one.ended > _KEEP_ENDED:
                del self._sessions[one.name]
                self._heard.pop(one.name, None)
                self._hooked.pop(one.session, None)
            return
        for pid, (process, start) in list(one.processes.items()):
            if not pids.is_running(pid, start):
                del one.processes[pid]
                one.gone[pid] = process
                if self._nodes.get(process.node) == pid:
                    del self._nodes[process.node]
                if pid == one.gcs_pid:
                    one.gcs_gone = monotonic
        self._announce(one, now, out)
        if not one.processes or (one.gcs_gone and monotonic - one.gcs_gone > _GCS_MAY_RETURN):
            self._end(one, now, monotonic, out)
        else:
            self._context.coverage.report(
                self.source, one.stream_state(one.name in self._heard, self.port, monotonic), one.session
            )
            self._context.coverage.report(
                "driver_exceptions", one.driver_state(self._hooked.get(one.session)), one.session
            )

    def _announce(self, one: RaySession, now: int, out: Records) -> None:
        known = one.any()
        if known is None:
            return
        attributes: dict[str, Value] = {
            names.RAY_SESSION_NAME: one.name,
            "ray.version": known.version,
            "ray.folder": one.folder,
            "ray.address": known.gcs,
            "ray.dashboard": known.dashboard,
            "ray.events": "yes" if one.sends(self.port) else "no",
            "ray.default_extra": known.extra,
            "misstep.started_by": known.started_by,
        }
        if attributes == one.told or not one.processes:
            return
        one.told = attributes
        oldest = min(start for _, start in one.processes.values())
        began = self._boot + oldest * SECOND // procfs.TICKS if self._boot else now
        out.event(
            "session.start", entity=f"session/{one.session}", session=one.session, time=min(began, now),
            attributes=attributes, body=f"Ray {known.version} in {one.folder}",
        )  # fmt: skip
        held = {
            "session": one.session,
            "pids": {str(pid): start for pid, (_, start) in one.processes.items()},
        }
        out.cursor(_CURSOR + one.name, json.dumps(held))

    def _end(self, one: RaySession, now: int, monotonic: int, out: Records) -> None:
        one.ended = monotonic
        if one.head:
            state, how = one.how_it_ended(self._context.workload.exit_of)
            out.event(
                "session.end", entity=f"session/{one.session}", session=one.session, state=state, body=how,
                severity=INFO if state == "ended" else WARNING, attributes={names.RAY_SESSION_NAME: one.name},
            )  # fmt: skip
        out.cursor(_CURSOR + one.name, "")
        self._context.coverage.end(one.session)

    def _recall(self, monotonic: int) -> None:
        """Sessions that we knew before a restart: those that ended meanwhile are closed with the next check."""
        for key, text in self._context.spool.cursors(_CURSOR).items():
            name = key[len(_CURSOR) :]
            try:
                held = json.loads(text)
                session, before = str(held["session"]), {int(p): int(s) for p, s in held["pids"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for pid, start in before.items():
                if pids.start_ticks(pid) == start:
                    self._meet(pid, monotonic)
            if name not in self._sessions:
                one = self._sessions[name] = RaySession(name, session, monotonic)
                one.head = True
