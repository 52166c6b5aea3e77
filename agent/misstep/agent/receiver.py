"""The agent's door on loopback: Ray's events and the reports of local programs.

    POST /v1/ray/<cluster>/events   what Ray's aggregator sends (a JSON array)
    POST /v1/report                 an uncaught exception, the start or the end of a command (an object or an array)
    POST /v1/stacks                 {"session": …}: take the stacks of that training job's ranks now; 404 if none runs here
    POST /v1/gpu                    {"release_s": seconds}: let go of the GPUs for so long, with 0 take them back, without
                                    it change nothing; answers how they stand
    GET  /healthz

A request is answered when its records are in the spool, so an answer means that a kill of the agent loses
nothing. Ray gives up waiting after 3 s and sends again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from misstep.agent import peers
from misstep.agent.commands import Commands
from misstep.agent.context import Context
from misstep.agent.gpu.release import LONGEST
from misstep.agent.listener import Answer, Body, Listener, Request
from misstep.agent.otlp import Value
from misstep.agent.pids import start_ticks
from misstep.agent.ray.events import Locate, Translator
from misstep.agent.ray.redaction import command, url
from misstep.agent.ray.shape import text
from misstep.agent.ray.splitter import Splitter
from misstep.agent.records import ERROR, INFO, Records
from misstep.core import names
from misstep.core.clock import SECOND
from misstep.core.errors import InputError, StorageError, TooLargeError

REPORTS = ("process.exception", "command.start", "command.exit")
"""Event names that a local program may report; everything else is ours to say."""

_COMMIT_BYTES = 1024 * 1024
_REPORT_LIMIT = 512 * 1024
_WISH_LIMIT = 4096
_RETRY = 2
_CLUSTERS = 64
_CLUSTER = re.compile(r"/v1/ray/([A-Za-z0-9][A-Za-z0-9._-]{0,63})/events")
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_SKEW = 24 * 3600 * SECOND

Heard = Callable[[str, str], None]
"""(Ray's session name, cluster): called once a request for each session that it is about."""


class Receiver:
    """Listens from `start` to `close`.

    Args:
        locate: finds the process of a Ray worker.
        heard: told which sessions send.
        owner: our session of a process that is not Ray's but started a cluster or is its driver, by pid; or empty.
        admit: whether a user's processes may send, by user id; our own user and root always may.
        port: by default the setting; 0 takes a free one.

    Raises:
        UnavailableError: the port is taken.
    """

    def __init__(
        self,
        context: Context,
        *,
        locate: Locate,
        heard: Heard,
        owner: Callable[[int], str] = lambda pid: "",
        admit: Callable[[int], bool] = lambda user: False,
        port: int | None = None,
    ) -> None:
        self._context = context
        self._locate = locate
        self._heard = heard
        self._owner = owner
        self._admit = admit
        self._commands = Commands(context.settings.site)
        context.workload.command_session = self._commands.session
        self._translators: dict[str, Translator] = {}
        self._listener = Listener(
            self._route,
            context.settings.agent.receiver_port if port is None else port,
            refused=self._refused,
        )
        self.port = self._listener.port

    def start(self) -> None:
        """Begin to serve."""
        self._listener.start()

    def close(self) -> None:
        """Stop."""
        self._listener.close()

    def _route(self, request: Request) -> Answer | Body:
        host = (
            request.headers.get("host", "").rpartition(":")
            if ":" in request.headers.get("host", "")
            else None
        )
        name = host[0] if host else request.headers.get("host", "")
        if name not in _HOSTS or "origin" in request.headers:
            return _refusal(421, "this door is for programs on this machine; name it 127.0.0.1")
        path = request.target.partition("?")[0]
        if path == "/healthz":
            return (
                Answer(200, '{"ok":true}') if request.method in ("GET", "HEAD") else _refusal(405, "GET it")
            )
        cluster = _CLUSTER.fullmatch(path)
        if cluster is None and path not in ("/v1/report", "/v1/stacks", "/v1/gpu"):
            return _refusal(
                404,
                "known are POST /v1/ray/<cluster>/events, /v1/report, /v1/stacks and /v1/gpu, and GET /healthz",
            )
        if request.method != "POST":
            return _refusal(405, "POST it")
        if request.headers.get("content-encoding", "identity") != "identity":
            return _refusal(415, "send it uncompressed")
        if not self._may(request.peer, only_owner=path == "/v1/gpu"):
            return _refusal(
                403, "only processes of the agent's own user, of root or of a watched Ray may send"
            )
        if path == "/v1/stacks":
            return _Wish(self._take_stacks)
        if path == "/v1/gpu":
            return _Wish(self._release_gpus)
        if cluster is None:
            return _Report(self._context, self._owner, self._commands)
        return _Events(self._context, self._translator(cluster.group(1)), cluster.group(1), self._heard)

    def _may(self, peer: tuple[str, int], *, only_owner: bool) -> bool:
        user = peers.owner(peer, self.port)
        return user is not None and (user in (0, os.geteuid()) or (self._admit(user) and not only_owner))

    def _take_stacks(self, wish: Mapping[str, Any]) -> Answer:
        """What is read reaches the collector like everything else."""
        if "session" not in wish:
            raise InputError('say which job: {"session": …}')
        if not self._context.workload.want_stacks(str(wish["session"])):
            return _refusal(404, "no rank of that session runs on this machine")
        return Answer(202, "{}")

    def _release_gpus(self, wish: Mapping[str, Any]) -> Answer:
        seconds = wish.get("release_s")
        if seconds is not None and not (type(seconds) in (int, float) and 0 <= seconds <= LONGEST):
            raise InputError(f"release_s is a number of seconds up to {LONGEST:.0f}")
        try:
            state, until = self._context.workload.release_gpus(seconds)
        except OSError as error:
            return _refusal(503, f"the agent's folder cannot be written: {error.strerror}")
        held = {"state": state, "until_ns": until, "host": self._context.host.name, "pid": os.getpid()}
        return Answer(200, json.dumps(held))

    def _translator(self, cluster: str) -> Translator:
        known = self._translators.get(cluster)
        if known is None:
            if len(self._translators) >= _CLUSTERS:
                self._translators.clear()
            known = Translator(self._context.settings.site, cluster, self._locate)
            self._translators[cluster] = known
        return known

    def _refused(self, status: int) -> None:
        out = Records(self._context.clock.now())
        out.gap("event", 1, f"request refused with {status} at the agent's receiver")
        try:
            self._context.spool.commit([out])
        except StorageError:
            pass  # the client was told; what the spool refuses it counts itself


class _Events:
    """A body of Ray events. What is complete goes to the spool as it comes; Ray sends a refused body again, and copies are known by their id."""

    def __init__(self, context: Context, translator: Translator, cluster: str, heard: Heard) -> None:
        self._context = context
        self._translator = translator
        self._cluster = cluster
        self._heard = heard
        self._splitter = Splitter()
        self._sessions: set[str] = set()
        self._fresh()

    def _fresh(self) -> None:
        self._out = Records(self._context.clock.now())
        self._bytes = 0

    def feed(self, data: bytes) -> Answer | None:
        """Translate what is complete."""
        return self._take(self._splitter.feed(data))

    def finish(self) -> Answer:
        """Keep the rest; the answer means that all of it is on disk."""
        early = self._take(self._splitter.finish())
        self._out.gap("event", self._splitter.oversized, "a Ray event longer than 2 MiB")
        for session in self._sessions:
            self._heard(session, self._cluster)
        return early or self._commit() or Answer(200)

    def _take(self, events: Iterable[dict[str, Any]]) -> Answer | None:
        for event in events:
            before = len(self._out.events)
            self._translator.add(event, self._out)
            if len(self._out.events) > before:
                self._bytes += len(self._out.events[-1])
            session = event.get("sessionName") or event.get("session_name")
            if isinstance(session, str) and session not in self._sessions and len(self._sessions) < 16:
                self._sessions.add(session)
            if self._bytes >= _COMMIT_BYTES:
                refused = self._commit()
                if refused is not None:
                    return refused
        return None

    def _commit(self) -> Answer | None:
        if self._out:
            try:
                self._context.spool.commit([self._out])
            except StorageError as error:
                return Answer(503, json.dumps({"error": str(error)}), _RETRY)
            self._fresh()
        return None


class _Report:
    """A body of `/v1/report`."""

    def __init__(self, context: Context, owner: Callable[[int], str], commands: Commands) -> None:
        self._context = context
        self._owner = owner
        self._commands = commands
        self._data = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """Gather; a report is small."""
        self._data += data
        if len(self._data) > _REPORT_LIMIT:
            raise TooLargeError(f"a report has at most {_REPORT_LIMIT} bytes")
        return None

    def finish(self) -> Answer:
        """Check it, say whose it is, keep it."""
        try:
            reports = json.loads(self._data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {error}") from error
        out = Records(self._context.clock.now())
        for report in reports if isinstance(reports, list) else [reports]:
            self._add(report, out)
        try:
            self._context.spool.commit([out])
        except StorageError as error:
            return Answer(503, json.dumps({"error": str(error)}), _RETRY)
        return Answer(200)

    def _add(self, report: object, out: Records) -> None:
        if not isinstance(report, dict) or report.get("event") not in REPORTS:
            raise InputError(f"a report is an object whose event is one of {', '.join(REPORTS)}")
        attributes = _attributes(report.get("attributes"))
        pid = attributes.get(names.PID)
        if not isinstance(pid, int) or not 0 < pid < 1 << 31:
            raise InputError(f"a report says whose it is with an integer attribute {names.PID}")
        event, workload = str(report["event"]), self._context.workload
        stated = report.get("ts")
        time_ = stated if isinstance(stated, int) and abs(stated - out.now) < _SKEW else out.now
        if event == "command.start":
            workload.register(pid, role="command")
            self._commands.begin(pid, time_, str(attributes.get(names.COMMAND, "")))
        session = self._session(pid, attributes)
        if not session and event != "command.start":
            session = self._commands.session(pid, out)
        process = workload.find(pid)
        start = attributes.get(names.PROCESS_START)
        if not isinstance(start, int):
            start = start_ticks(pid) or (process.start if process is not None else 0)
        if start:
            attributes[names.PROCESS_START] = start
        entity = f"process/{self._context.host.id[:12]}/{pid}/{start}" if start else ""
        out.event(
            event,
            entity=entity,
            session=session,
            state=_state(event, attributes),
            body=url(text(str(report.get("body") or ""))),
            time=time_,
            severity=ERROR if event == "process.exception" else INFO,
            attributes=attributes,
        )
        if event == "command.exit":
            self._commands.end(pid, out)

    def _session(self, pid: int, attributes: Mapping[str, Value]) -> str:
        stated = attributes.get(names.RAY_SESSION_NAME)
        if isinstance(stated, str) and stated:
            return self._context.workload.session_name(stated)
        return self._owner(pid) or self._context.workload.session_of(pid)


class _Wish:
    """A short JSON object, and what is done about it."""

    def __init__(self, grant: Callable[[Mapping[str, Any]], Answer]) -> None:
        self._grant = grant
        self._data = bytearray()

    def feed(self, data: bytes) -> Answer | None:
        """Gather; a wish is short."""
        self._data += data
        if len(self._data) > _WISH_LIMIT:
            raise TooLargeError(f"a wish has at most {_WISH_LIMIT} bytes")
        return None

    def finish(self) -> Answer:
        """Do it."""
        try:
            wish = dict(json.loads(self._data or b"{}"))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError("a wish is a JSON object") from error
        return self._grant(wish)


def _attributes(given: object) -> dict[str, Value]:
    if not isinstance(given, dict) or len(given) > 64:
        raise InputError("a report has an object of at most 64 attributes")
    held: dict[str, Value] = {}
    for key, value in given.items():
        if isinstance(value, str):
            held[key[:128]] = command(text(value)) if key == names.COMMAND else text(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            held[key[:128]] = value
    held.setdefault(names.SOURCE, "driver_exceptions")
    return held


def _state(event: str, attributes: Mapping[str, Value]) -> str:
    if event != "command.exit":
        return ""
    return "killed" if attributes.get(names.EXIT_SIGNAL) else "exited"


def _refusal(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}))
