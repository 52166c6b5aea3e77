"""Diagnosis, once for each whole second of the journal's receive time.

What a tick finds depends on the rows received before it and on what the tick before it found, on nothing
else: after a restart the loop goes on behind the last tick that was recorded, and finds the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from misstep.collector.telemetry import Stopwatch, Telemetry
from misstep.core.clock import SECOND, Clock
from misstep.core.errors import StorageError
from misstep.diagnosis import Incident, Recall
from misstep.store.rows import SessionRow
from misstep.store.store import Store
from misstep.store.view import View

Diagnose = Callable[[View, str, int, Sequence[Incident], Recall], list[Incident]]

QUIET_SECONDS = 120
"""A session of which nothing was received for so long is diagnosed no further until it is heard of again."""

ENDED_SECONDS = 30
"""The same for one that is over: what its files still hold has been read by then."""

_RECORD_SECONDS = 10
"""A tick without an active session is recorded this often; those behind it are run again after a restart."""

_POLL_SECONDS = 0.02
_RETRY_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Ticker(threading.Thread):
    """The loop, as a thread of its own.

    Args:
        store: where rows are read and incidents saved.
        diagnose: what makes incidents out of a view.
        clock: tells when a second may be over; the store decides.
        telemetry: counts ticks, time and failures.
    """

    def __init__(self, store: Store, diagnose: Diagnose, clock: Clock, telemetry: Telemetry) -> None:
        super().__init__(name="diagnosis", daemon=True)
        self._store = store
        self._diagnose = diagnose
        self._clock = clock
        self._telemetry = telemetry
        self._stop_asked = threading.Event()
        self._known: dict[str, dict[str, str]] = {}
        self._failures: dict[str, str] = {}
        self._recalls: dict[str, Recall] = {}
        self._recorded = store.last_tick()
        self._tick = self._recorded
        telemetry.tick_lag_seconds.set_function(self._lag)

    def tick(self) -> int:
        """The last second that was diagnosed, Unix nanoseconds; 0 before the first."""
        return self._tick

    def failures(self, session: str) -> Sequence[str]:
        """What kept the last diagnosis of a session from being made."""
        found = self._failures.get(session)
        return [found] if found else []

    def stop(self) -> None:
        """End after the tick that runs now."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(30)

    def run(self) -> None:
        """Tick until stopped."""
        following = 0
        while not self._stop_asked.is_set():
            try:
                following = following or self._first()
                if not self._wait(following):
                    return
                following = self.step(following)
            except StorageError as error:
                _log.warning("diagnosis waits for the disk: %s", error)
                self._stop_asked.wait(_RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - the loop must outlive its ticks
                self._telemetry.tick_failures.inc()
                _log.exception("diagnosis failed; it tries again")
                self._stop_asked.wait(_RETRY_SECONDS)

    def step(self, at: int) -> int:
        """Diagnose one second, all of which has been ingested.

        Args:
            at: the tick, a whole second.

        Returns:
            The next tick.

        Raises:
            StorageError: nothing was saved; the same tick can be run again.
        """
        watch = Stopwatch()
        view = self._store.view(until=at, own=True)
        active = [s.session for s in view.sessions() if s.heard >= at - _attention(s) * SECOND]
        self._recalls = {session: self._recalls.get(session) or Recall() for session in active}
        found = {session: self._of_session(view, session, at) for session in sorted(active)}
        changed = [
            (id, session, text)
            for session, incidents in found.items()
            for id, text in sorted(incidents.items())
            if self._before(session).get(id) != text
        ]
        if active or at - self._recorded >= _RECORD_SECONDS * SECOND:
            self._store.save_incidents(at, changed)
            self._recorded = at
        for id, session, text in changed:
            self._before(session)[id] = text
        self._tick = at
        self._telemetry.ticks.inc()
        self._telemetry.tick_seconds.inc(watch.seconds())
        return at + SECOND if active else self._skip(at, view)

    def _of_session(self, view: View, session: str, at: int) -> dict[str, str]:
        before = [Incident.from_json(text) for _, text in sorted(self._before(session).items())]
        try:
            incidents = self._diagnose(view, session, at, before, self._recalls[session])
            texts = {incident.id: incident.to_json() for incident in incidents}
        except StorageError:
            raise
        except Exception as error:  # noqa: BLE001 - one detector must not stop the others
            self._telemetry.tick_failures.inc()
            said = f"{type(error).__name__}: {error}"[:300]
            if self._failures.get(session) != said:
                _log.exception("diagnosis of %s failed; its incidents stay as they were", session)
            self._failures[session] = said
            self._recalls.pop(session, None)
            return {}
        self._failures.pop(session, None)
        return texts

    def _before(self, session: str) -> dict[str, str]:
        """The newest version of each incident of a session, as it is stored."""
        known = self._known.get(session)
        if known is None:
            stored = self._store.incidents(session=session)
            known = {i["id"]: Incident.from_dict(i).to_json() for i in stored}
            self._known[session] = known
        return known

    def _first(self) -> int:
        """The tick to begin with."""
        if self._recorded:
            return self._recorded + SECOND
        now = _floor(self._clock.now())
        start = self._next_received(0, now) or now
        self._store.save_incidents(start - SECOND, [])
        self._recorded = self._tick = start - SECOND
        return start

    def _wait(self, at: int) -> bool:
        """Until all that was received before `at` can be seen; False if stopped meanwhile."""
        while not self._store.ingested(before=at):
            left = (at - self._clock.now()) / SECOND
            if self._stop_asked.wait(min(max(left, _POLL_SECONDS), 0.5)):
                return False
        return not self._stop_asked.is_set()

    def _skip(self, at: int, view: View) -> int:
        """The tick after one at which no session was active.

        Until something is received no session becomes active, so every tick before that finds the same nothing.
        """
        now = _floor(self._clock.now())
        if now <= at + SECOND or not self._store.ingested(before=now):
            return at + SECOND
        return self._next_received(at, now) or now

    def _next_received(self, after: int, until: int) -> int | None:
        """The first whole second behind `after` that sees more than `after` does; None if `until` does not."""
        seen = self._store.view(until=after, own=True).position()[0]
        if self._store.view(until=until, own=True).position()[0] == seen:
            return None
        low, high = after // SECOND, until // SECOND
        while high - low > 1:
            middle = (low + high) // 2
            if self._store.view(until=middle * SECOND, own=True).position()[0] == seen:
                low = middle
            else:
                high = middle
        return high * SECOND

    def _lag(self) -> float:
        return (self._clock.now() - self._tick) / SECOND if self._tick else 0.0


def _attention(session: SessionRow) -> int:
    return QUIET_SECONDS if session.ended is None else ENDED_SECONDS


def _floor(now: int) -> int:
    return now // SECOND * SECOND
