"""What Ray tells only when it is asked: status of submissions, waiting placement groups, demands that nobody meets.

Of a cluster without an event stream everything else is asked too. A thread of its own does the asking.
"""

from __future__ import annotations

import threading

from misstep.agent.context import Context
from misstep.agent.probe import OK, SourceState, failing, off
from misstep.agent.ray import api, cluster, demand, submissions
from misstep.agent.ray.cluster import RayProcess
from misstep.agent.ray.events import Locate
from misstep.agent.ray.polled import Polled
from misstep.agent.ray.session import RaySession
from misstep.agent.ray.sessions import RaySessions
from misstep.agent.records import Records
from misstep.agent.watched_thread import WatchedThread
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.errors import StorageError, UnavailableError

_SLOW = 6 * SECOND
_REPEAT_DEMAND = 30 * SECOND
_UNFINISHED = 300
_FAILED = 1000
_FOLLOWED = 20


class _Asked:
    """What is remembered of one session."""

    def __init__(self, session: str, locate: Locate) -> None:
        self.polled = Polled(session, locate)
        self.submissions: set[str] = set()
        self.waiting: dict[str, None] = {}
        self.demand = ""
        self.demand_told = 0
        self.slow_due = 0


class RayDashboard:
    """Probe of the dashboards of the clusters whose head is on this machine."""

    source = "ray_api"
    follows_events = False

    def __init__(self, context: Context, sessions: RaySessions) -> None:
        self.interval = max(0.5, context.settings.agent.ray_poll_interval)
        self._context = context
        self._sessions = sessions
        self._asked: dict[str, _Asked] = {}
        self._wanted = threading.Event()
        self._thread = WatchedThread("ray_api", self._work, context.clock)

    def supported(self) -> SourceState:
        """Always; which dashboard answers is told per session."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Let the thread ask; it keeps what it hears by itself."""
        if any(not one.ended for one in self._sessions.all()):
            state = self._thread.watch()
            self._wanted.set()
            return state
        return None

    def close(self) -> None:
        """Stop the thread; a question under way is left to its timeout."""
        self._thread.stopping.set()
        self._wanted.set()
        self._thread.close(1.0)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._thread.stopping.is_set():
                return
            self.ask()

    def ask(self) -> None:
        """Ask every dashboard once."""
        live = {one.name: one for one in self._sessions.all() if one.head and not one.ended}
        for name in [name for name in self._asked if name not in live]:
            del self._asked[name]
        for one in live.values():
            if one.nodes:  # the first raylet knows the dashboard's address
                self._context.coverage.report(self.source, self._session(one), one.session)

    def _session(self, one: RaySession) -> SourceState:
        known = one.any()
        if known is None or not known.dashboard:
            if known is not None and known.extra == "no":
                return off(
                    "ray is installed without [default], and then has no dashboard",
                    "pip install 'ray[default]'",
                )
            return off("this Ray has no dashboard")
        asked = self._asked.setdefault(one.name, _Asked(one.session, self._sessions.locate))
        now = self._context.clock.now()
        out = Records(now)
        try:
            self._jobs(known, asked, one, out)
            if not self._sessions.streams(one):
                self._state(known, asked, out)
            elif (0, 0) < known.release < cluster.WORKERS_SINCE:
                self._workers(known, asked, out)
            if now >= asked.slow_due:
                asked.slow_due = now + _SLOW
                self._slow(known, asked, one, out)
        except api.Denied as error:
            return failing(str(error), "run the agent as the user who started Ray")
        except UnavailableError as error:
            return failing(str(error))
        finally:
            if out:
                try:
                    self._context.spool.commit([out])
                except StorageError:
                    self._context.spool.lose([out], 0, "the disk refused the spool")
        return OK

    def _jobs(self, known: RayProcess, asked: _Asked, one: RaySession, out: Records) -> None:
        answer = api.ask(known, "/api/jobs/")
        for row in answer if isinstance(answer, list) else []:
            if not isinstance(row, dict):
                continue
            if row.get("submission_id"):
                fresh = Records(out.now)
                event_id = submissions.add(row, fresh, session=one.session, source=self.source, now=out.now)
                if event_id and event_id not in asked.submissions:
                    asked.submissions.add(event_id)
                    out.events += fresh.events
            if not self._sessions.streams(one):
                asked.polled.job(row, out, out.now)

    def _state(self, known: RayProcess, asked: _Asked, out: Records) -> None:
        polled, now = asked.polled, out.now
        for row in api.rows(api.ask(known, "/api/v0/nodes?detail=1&limit=1000")):
            polled.node(row, out, now)
        self._workers(known, asked, out)
        for row in api.rows(api.ask(known, "/api/v0/actors?detail=1&limit=1000")):
            polled.actor(row, out, now)
        unfinished: dict[str, None] = {}
        for row in self._tasks(known, "state", "%21%3D", "FINISHED", _FAILED + _UNFINISHED):
            polled.task(row, out, now)
            if row.get("state") != "FAILED":
                unfinished[str(row.get("task_id"))] = None
        # A task that was waiting or running and no longer is has ended well, or its retry has.
        for task in [task for task in asked.waiting if task not in unfinished][:_FOLLOWED]:
            del asked.waiting[task]
            for row in self._tasks(known, "task_id", "%3D", task, 10):
                polled.task(row, out, now)
        asked.waiting |= dict(list(unfinished.items())[: _UNFINISHED - len(asked.waiting)])

    def _tasks(
        self, known: RayProcess, key: str, predicate: str, value: str, limit: int
    ) -> list[dict[str, object]]:
        query = (
            f"detail=1&limit={limit}&filter_keys={key}&filter_predicates={predicate}&filter_values={value}"
        )
        return api.rows(api.ask(known, f"/api/v0/tasks?{query}"))

    def _workers(self, known: RayProcess, asked: _Asked, out: Records) -> None:
        for row in api.rows(api.ask(known, "/api/v0/workers?detail=1&limit=1000")):
            asked.polled.worker(row, out, out.now)

    def _slow(self, known: RayProcess, asked: _Asked, one: RaySession, out: Records) -> None:
        for row in api.rows(api.ask(known, "/api/v0/placement_groups?detail=1&limit=1000")):
            asked.polled.group(row, out, out.now)
        answer = api.ask(known, "/api/cluster_status?format=1")
        held = answer.get("data") if isinstance(answer, dict) else None
        status = held.get("clusterStatus") if isinstance(held, dict) else None
        demands, usage = demand.parse(status) if isinstance(status, str) else ([], {})
        key = repr(sorted(demands, key=repr))
        repeat = out.now - asked.demand_told > _REPEAT_DEMAND
        if (demands and (key != asked.demand or repeat)) or (not demands and asked.demand not in ("", "[]")):
            nodes = api.rows(api.ask(known, "/api/v0/nodes?detail=1&limit=1000"))
            out.event(
                "ray.demand", entity=f"session/{one.session}", session=one.session, body=demand.body(demands, usage, nodes),
                attributes={names.SOURCE: self.source, names.RAY_SESSION_NAME: one.name},
            )  # fmt: skip
            asked.demand_told = out.now
        asked.demand = key
