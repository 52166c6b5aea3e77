"""Keeps child processes running: restarts with growing pauses, an orderly end, no orphans."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between a death and the restart; doubled each time."""
STABLE = 60.0
"""Seconds of life after which a death counts as the first again."""
GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL: the collector seals, the agent sends what it has."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass
class Child:
    """One process that is kept running.

    Attributes:
        argv: how to start it; called again before each start, since addresses may have become known.
        ready: what it says once it serves, None before.
    """

    name: str
    argv: Callable[[], Sequence[str]]
    environ: Mapping[str, str]
    ready: Callable[[], dict[str, Any] | None]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    due: float = 0.0
    restarts: int = 0
    status: int | None = None

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C reaches us alone, and we end it in order."""
        self.process = subprocess.Popen(
            list(self.argv()),
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
            preexec_fn=_end_with_parent if _LIBC else None,  # noqa: PLW1509  (no threads run here)
        )
        self.started = time.monotonic()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `GRACE`."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Supervisor:
    """Runs children until a signal asks for the end. Use as a context: leaving it ends them, last started first."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[Child] = []
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._before: dict[int, Any] = {}
        self.stopping = False

    def __enter__(self) -> Self:
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._stop)
        # A handler must exist for the death of a child to wake the loop.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.stop()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def start(self, child: Child, timeout: float) -> dict[str, Any] | int:
        """Start a child and wait until it is ready.

        Returns:
            What it says when ready, or its exit status if it ended before (0 when the end was asked for).

        Raises:
            TimeoutError: neither came in `timeout` seconds; the child runs on and is ended with the rest.
        """
        self._children.append(child)
        child.start()
        assert child.process is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not self.stopping:
            if (answer := child.ready()) is not None:
                return answer
            if (status := child.process.poll()) is not None:
                self._children.remove(child)
                child.status = status
                return status
            self._wait(0.05)
        if self.stopping:
            return 0
        raise TimeoutError(child.name)

    def watch(self) -> Iterator[tuple[Child, dict[str, Any]]]:
        """Restart what dies until the end is asked for; yields each child that serves again, and what it says."""
        awaited: set[str] = set()
        while not self.stopping:
            now = time.monotonic()
            for child in self._children:
                assert child.process is not None
                if child.due and now >= child.due:
                    child.due = 0.0
                    child.start()
                    awaited.add(child.name)
                elif not child.due and (status := child.process.poll()) is not None:
                    self._schedule(child, status, now)
                elif child.name in awaited and (answer := child.ready()) is not None:
                    awaited.discard(child.name)
                    yield child, answer
            dues = [child.due - now for child in self._children if child.due]
            self._wait(0.1 if awaited else max(0.01, min(dues, default=3600.0)))

    def _schedule(self, child: Child, status: int, now: float) -> None:
        if now - child.started > STABLE:
            child.pause = FIRST_PAUSE
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._say(f"the {child.name} ended ({how}); starting it again in {child.pause:g} s")
        child.due = now + child.pause
        child.pause = min(child.pause * 2, LONGEST_PAUSE)
        child.restarts += 1
        child.status = status

    def _stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def _wait(self, seconds: float) -> None:
        select.select([self._reader], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    # Runs between fork and exec: nothing but the system call.
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
