"""Which sources of evidence could be read: said at each change and every 30 s, so that silence means something."""

from __future__ import annotations

import threading

from misstep.agent.probe import SourceState
from misstep.agent.records import INFO, WARNING, Records
from misstep.core import names
from misstep.core.clock import SECOND

_EVERY = 30 * SECOND


class Coverage:
    """The state of every source, for the host (session ``""``) and per session. Any thread may report.

    Args:
        host: entity of this machine, ``host/<id>``.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._states: dict[tuple[str, str], SourceState] = {}
        self._changed: dict[tuple[str, str], list[SourceState]] = {}
        self._due = 0

    def report(self, source: str, state: SourceState, session: str = "") -> None:
        """Say how a source is.

        Args:
            source: a key of `misstep.core.names.SOURCES`.
            session: the session that it is about, when it is about one.

        Raises:
            KeyError: nobody declared that source.
        """
        if source not in names.SOURCES:
            raise KeyError(source)
        with self._lock:
            key = (source, session)
            if self._states.get(key) != state:
                self._states[key] = state
                self._changed.setdefault(key, []).append(state)

    def end(self, session: str) -> None:
        """A session is over: its sources are no longer told of."""
        with self._lock:
            for key in [key for key in self._states if key[1] == session]:
                del self._states[key]
                self._changed.pop(key, None)

    def state(self, source: str, session: str = "") -> SourceState | None:
        """What was said last."""
        with self._lock:
            return self._states.get((source, session))

    def check(self, now: int, out: Records) -> None:
        """Put into `out` what changed, and every 30 s all of it."""
        with self._lock:
            told, self._changed = self._changed, {}
            if now >= self._due or self._due - now > _EVERY:  # the second: the clock was set back
                self._due = now + _EVERY
                told = {key: told.get(key) or [state] for key, state in self._states.items()}
        for (source, session), states in told.items():
            for state in states:
                self._tell(out, source, session, state)

    def _tell(self, out: Records, source: str, session: str, state: SourceState) -> None:
        out.event(
            "source.state",
            entity=self._host,
            session=session,
            state=state.name,
            severity=INFO if state.name in ("ok", "off") else WARNING,
            attributes={
                names.SOURCE: source,
                names.SOURCE_REASON: state.reason,
                names.SOURCE_REMEDY: state.remedy,
            },
        )
