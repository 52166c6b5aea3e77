"""Sends what the spool holds: one request in flight, in order, again with the same number after any doubt."""

from __future__ import annotations

import random
import socket
import threading
import time
import zlib
from typing import NamedTuple

from misstep.agent.coverage import Coverage
from misstep.agent.otlp import Envelope, rejected
from misstep.agent.probe import OK, SourceState, failing
from misstep.agent.spool import Flight, Spool
from misstep.agent.target import Finder, Target
from misstep.agent.web import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, connection
from misstep.core.clock import SECOND
from misstep.core.errors import StorageError

RESPONSE_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer that are read; more is not a collector's."""

_RETRYABLE = frozenset((429, 502, 503, 504))  # opentelemetry.io/docs/specs/otlp, "Retryable response codes"
_MISDIRECTED = frozenset((401, 403, 404, 405, 407, 408, 421))
"""These speak of address or token, not of the request: somebody will mend them, so nothing is dropped."""
_SERVER_TRIES = 5
_LOCAL_CAP, _REMOTE_CAP = 2.0, 30.0
_RETRY_AFTER_CAP = 300.0
_LOOK = 0.25


class _Answer(NamedTuple):
    status: int
    body: bytes
    retry_after: str


class Uplink:
    """A thread that drains the spool.

    Args:
        token: bearer token, or empty.
        timeout: seconds for connecting and for each read.
        deadline: seconds for a whole request; `watch` cuts it off then.
    """

    def __init__(
        self,
        spool: Spool,
        envelope: Envelope,
        finder: Finder,
        coverage: Coverage,
        *,
        agent: str,
        token: str = "",
        timeout: float = 10.0,
        deadline: float = 30.0,
    ) -> None:
        self._spool, self._envelope, self._finder, self._coverage = spool, envelope, finder, coverage
        self._timeout, self._deadline = timeout, round(deadline * SECOND)
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": "misstep-agent",
            "Misstep-Agent": agent,
        }
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._closing = threading.Event()
        self._connection: HTTPConnection | None = None
        self._target: Target | None = None
        self._since = 0
        self._thread = threading.Thread(target=self._run, name="uplink", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def watch(self) -> None:
        """Cut off a request that dribbles past its deadline; the agent's loop calls this each tick."""
        since, held = self._since, self._connection
        if since and held is not None and time.monotonic_ns() - since > self._deadline:
            try:
                held.sock.shutdown(socket.SHUT_RDWR)
            except (AttributeError, OSError):
                pass  # it came to an end by itself in the meantime

    def close(self, grace: float = 2.0) -> None:
        """Send what waits for at most `grace` seconds, then stop; the rest stays in the spool."""
        end = time.monotonic() + grace
        while self._thread.is_alive() and self._spool.wait(0) and time.monotonic() < end:
            if self._since == 0 and self._coverage.state("agent") not in (None, OK):
                break  # it is waiting out an outage
            time.sleep(0.02)
        self._closing.set()
        self._since = 1  # `watch` cuts off whatever is still being read
        self.watch()
        self._spool.wake()
        if self._thread.is_alive():
            self._thread.join(self._timeout + 1)

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._spool.wait(60.0):
                if self._spool.closed:
                    break
                continue
            try:
                flight = self._spool.claim()
            except StorageError as error:
                self._say(failing(str(error)))
                self._closing.wait(1.0)
                continue
            if flight is not None:
                self._deliver(flight)
        self._disconnect()

    def _deliver(self, flight: Flight) -> None:
        """Try until the collector has answered for it, or the agent closes."""
        body = _gzip(self._envelope.request(flight.payload))
        tries = 0
        while not self._closing.is_set():
            target = self._finder.find()
            if target is None:
                self._say(failing(self._finder.missing(), "misstep up"))
                self._pause(tries, None, "")
                continue
            tries += 1
            try:
                answer = self._send(target, flight, body)
            except (OSError, HTTPException) as error:
                self._disconnect()
                if self._closing.is_set():
                    return
                self._say(failing(f"no answer from the collector at {target} ({_told(error)})", "misstep up"))
                self._pause(tries, target, "")
                continue
            if self._settled(flight, answer, target, tries):
                return
            self._pause(tries, target, answer.retry_after)

    def _settled(self, flight: Flight, answer: _Answer, target: Target, tries: int) -> bool:
        """Act on an answer; False means that the request has to be sent again."""
        status = answer.status
        if 200 <= status < 300:
            dropped, reason = rejected(answer.body)
            self._spool.settle(
                flight,
                min(dropped, flight.records),
                f"the collector refused it: {reason or 'no reason given'}",
            )
            self._say(OK)
            return True
        if status in _RETRYABLE or (status >= 500 and tries < _SERVER_TRIES):
            self._say(failing(f"the collector at {target} is busy or down (HTTP {status})"))
            return False
        if status in _MISDIRECTED:
            remedy = (
                "MISSTEP_TOKEN=… misstep agent"
                if status in (401, 403)
                else "MISSTEP_COLLECTOR_URL=… misstep agent"
            )
            self._say(failing(f"{target} refuses the agent (HTTP {status})", remedy))
            return False
        self._spool.settle(flight, flight.records, f"the collector refused the request (HTTP {status})")
        return True

    def _send(self, target: Target, flight: Flight, body: bytes) -> _Answer:
        headers = {**self._headers, "Misstep-Boot": flight.boot, "Misstep-Seq": str(flight.seq)}
        held = self._connected(target)
        fresh = held.sock is None
        self._since = time.monotonic_ns()
        try:
            try:
                held.request("POST", f"{target.path}/v1/{flight.signal}", body, headers)
                return _read(held.getresponse(), held)
            except (BrokenPipeError, ConnectionResetError, BadStatusLine):
                if fresh or self._closing.is_set():
                    raise
                held.close()  # a kept connection may have been closed while it idled: once more on a new one
                held.request("POST", f"{target.path}/v1/{flight.signal}", body, headers)
                return _read(held.getresponse(), held)
        finally:
            self._since = 0

    def _connected(self, target: Target) -> HTTPConnection:
        if self._connection is None or self._target != target:
            self._disconnect()
            self._connection = connection(target.scheme, target.host, target.port, self._timeout)
            self._target = target
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _pause(self, tries: int, target: Target | None, retry_after: str) -> None:
        """Wait before the next try; cut short when the collector's address changes or the agent closes."""
        asked = _seconds(retry_after)
        cap = _LOCAL_CAP if target is None or target.local else _REMOTE_CAP
        wait = (
            cap * random.uniform(0.5, 1.0)
            if target is None
            else min(cap, 0.1 * 2**tries) * random.uniform(0.5, 1.0)
        )
        end = time.monotonic() + (min(asked, _RETRY_AFTER_CAP) if asked is not None else wait)
        while (left := end - time.monotonic()) > 0 and not self._closing.wait(min(left, _LOOK)):
            if self._finder.find() != target:
                return

    def _say(self, state: SourceState) -> None:
        if self._coverage.state("agent") != state:
            self._coverage.report("agent", state)


def _read(response: HTTPResponse, held: HTTPConnection) -> _Answer:
    if response.length is None and not response.chunked:
        raise HTTPException("the answer does not say where it ends, or broke off before it did")
    parts, size = [], 0
    while size <= RESPONSE_LIMIT and (part := response.read1(65536)):
        parts.append(part)
        size += len(part)
    if size > RESPONSE_LIMIT:
        held.close()  # the rest of it is in the way of the next answer
        parts = []
    elif response.length:
        raise HTTPException(f"the answer broke off {response.length} bytes early")
    elif response.will_close:
        held.close()
    else:
        response.close()  # read1 does not mark it as read to its end, and the connection would refuse the next request
    return _Answer(response.status, b"".join(parts), response.getheader("Retry-After") or "")


def _seconds(retry_after: str) -> float | None:
    """Retry-After as seconds from now: a number or an HTTP date (RFC 9110, 10.2.3); None for anything else."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
