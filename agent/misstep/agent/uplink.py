"""Sends what the spool holds: one request in flight, in order, again with the same number after any doubt."""

from __future__ import annotations

import random
import time
import zlib

from misstep.agent.coverage import Coverage
from misstep.agent.exchange import Answer, AnswerError, Exchange, NoAnswerError
from misstep.agent.flight import Flight
from misstep.agent.otlp import Envelope, rejected
from misstep.agent.probe import OK, SourceState, failing
from misstep.agent.spool import Spool
from misstep.agent.target import Finder, Target
from misstep.agent.watched_thread import WatchedThread
from misstep.core.clock import SECOND, Clock
from misstep.core.errors import SettingsError, StorageError

RESPONSE_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer that are read; more is not a collector's."""

_RETRYABLE = frozenset((429, 502, 503, 504))  # opentelemetry.io/docs/specs/otlp, "Retryable response codes"
_MISDIRECTED = frozenset((401, 403, 404, 405, 407, 408, 421))
"""These speak of address or token, not of the request: somebody will mend them, so nothing is dropped."""
_SERVER_TRIES = 5
_LOCAL_CAP, _REMOTE_CAP = 2.0, 30.0
_RETRY_AFTER_CAP = 300.0
_LOOK = 0.25
_LOOK_AGAIN = 2.0


class Uplink:
    """A thread that drains the spool.

    Args:
        token: bearer token, or empty.
        timeout: seconds for connecting and for each read.
        deadline: seconds for a whole request; `watch` cuts it off then.

    Raises:
        SettingsError: the token cannot be sent.
    """

    def __init__(
        self,
        spool: Spool,
        envelope: Envelope,
        finder: Finder,
        coverage: Coverage,
        clock: Clock,
        *,
        agent: str,
        token: str = "",
        timeout: float = 10.0,
        deadline: float = 30.0,
    ) -> None:
        self._spool, self._envelope, self._finder, self._coverage = spool, envelope, finder, coverage
        self._timeout, self._deadline = timeout, round(deadline * SECOND)
        lines = [
            "Content-Type: application/x-protobuf",
            "Content-Encoding: gzip",
            "User-Agent: misstep-agent",
        ]
        lines.append(f"Misstep-Agent: {agent}")
        if token:
            if not (token.isascii() and token.isprintable()):
                raise SettingsError("the token has characters that no header can carry")
            lines.append(f"Authorization: Bearer {token}")
        self._headers = "".join(line + "\r\n" for line in lines).encode()
        self._exchange: Exchange | None = None
        self._since = 0
        self._thread = WatchedThread("uplink", self._run, clock)
        self._closing = self._thread.stopping

    def watch(self) -> None:
        """Begin to send, and again should the thread have died; cut off a request that dribbles past its deadline.

        The agent's loop calls this each tick.
        """
        since, held = self._since, self._exchange
        if since and held is not None and time.monotonic_ns() - since > self._deadline:
            held.cut()
        if not self._closing.is_set() and (state := self._thread.watch()) != OK:
            self._say(state)

    def close(self, grace: float = 2.0) -> None:
        """Send what waits for at most `grace` seconds, then stop; the rest stays in the spool."""
        end = time.monotonic() + grace
        while self._thread.alive and self._spool.wait(0) and time.monotonic() < end:
            if self._since == 0 and self._coverage.state("agent") not in (None, OK):
                break  # it is waiting out an outage
            time.sleep(0.02)
        self._closing.set()
        self._since = 1  # `watch` cuts off whatever is still being read
        self.watch()
        self._spool.wake()
        self._thread.close(self._timeout + 1)

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        self._disconnect()  # of a life that ended in the midst of a request
        while not self._closing.is_set():
            if not self._spool.wait(_LOOK_AGAIN):
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
            except (OSError, AnswerError) as error:
                self._disconnect()
                if self._closing.is_set():
                    return
                self._say(failing(f"no answer from the collector at {target} ({_told(error)})", "misstep up"))
                self._pause(tries, target, "")
                continue
            if self._settled(flight, answer, target, tries):
                return
            self._pause(tries, target, answer.retry_after)

    def _settled(self, flight: Flight, answer: Answer, target: Target, tries: int) -> bool:
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

    def _send(self, target: Target, flight: Flight, body: bytes) -> Answer:
        if self._exchange is None or self._exchange.target != target:
            self._disconnect()
            self._exchange = Exchange(target, self._timeout, RESPONSE_LIMIT)
        held = self._exchange
        path = f"/v1/{flight.signal}"
        headers = self._headers + b"Misstep-Boot: %s\r\nMisstep-Seq: %d\r\n" % (
            flight.boot.encode(),
            flight.seq,
        )
        used_before = held.is_open
        self._since = time.monotonic_ns()
        try:
            try:
                return held.post(path, headers, body)
            except (BrokenPipeError, ConnectionResetError, NoAnswerError):
                if not used_before or self._closing.is_set():
                    raise
                held.close()  # the collector closed it while it idled: once more on a new one
                return held.post(path, headers, body)
        finally:
            self._since = 0

    def _disconnect(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

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
    # The tables of memLevel 6 are a quarter of the usual ones: they stay in cache, and it takes half the time.
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 6)
    return packer.compress(body) + packer.flush()


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
