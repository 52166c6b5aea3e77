"""A thread of a probe's own that is looked after: when it dies that is said, and it is begun again."""

from __future__ import annotations

import threading
from collections.abc import Callable

from misstep.agent.probe import OK, SourceState, failing
from misstep.core.clock import SECOND, Clock

_FIRST, _MOST = SECOND, 30 * SECOND
_STEADY = 60 * SECOND
"""A thread that lived so long is begun again after the first pause, however often it died before."""


class WatchedThread:
    """Runs a function, and again after a growing pause whenever it raises.

    Args:
        name: of the thread.
        run: returns once `stopping` is set; what it raises ends one life of the thread.

    Attributes:
        stopping: set when the thread shall end.
    """

    def __init__(self, name: str, run: Callable[[], None], clock: Clock) -> None:
        self._name, self._run, self._clock = name, run, clock
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._began = self._due = self._pause = 0
        self._why = ""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread is not None and self._thread.is_alive()

    def watch(self) -> SourceState:
        """Begin it, or begin it again when its pause is over; `failing` from its death until then. Call it at each check."""
        if self.alive:
            return OK
        now = self._clock.monotonic()
        if self._thread is not None:
            self._thread = None
            steady = now - self._began >= _STEADY
            self._pause = _FIRST if steady or not self._pause else min(2 * self._pause, _MOST)
            self._due = now + self._pause
        if now < self._due or self.stopping.is_set():
            return failing(f"the thread {self._name} died ({self._why}); it is begun again")
        self._began = now
        self._thread = threading.Thread(target=self._live, name=self._name, daemon=True)
        self._thread.start()
        return OK

    def close(self, patience: float = 0.0) -> None:
        """Ask it to end and wait for at most `patience` seconds; one that hangs in the kernel is left to it."""
        self.stopping.set()
        if self._thread is not None and patience:
            self._thread.join(patience)

    def _live(self) -> None:
        try:
            self._run()
            self._why = "it returned"
        except BaseException as error:  # noqa: BLE001  also SystemExit would end it without a word
            self._why = f"{type(error).__name__}: {error}"
