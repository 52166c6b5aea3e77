"""One line on stderr while something is awaited: rewritten on a terminal, said now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from misstep.cli.terminal import clean

_QUIET = 0.7
"""Seconds before the first word: what is quick needs none."""


_EACH = 15.0
"""Seconds between two words into a file or a pipe."""


class Progress:
    """Use as a context; leaving it wipes the line."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._live = sys.stderr.isatty()
        self._said = ""
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._said:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, message: str) -> None:
        """Say it, with the seconds so far on a terminal."""
        passed = self._now() - self._began
        if passed < _QUIET:
            return
        if self._live:
            sys.stderr.write(f"\r\x1b[K{clean(message)} {passed:.0f} s")
        elif not self._said or passed - self._last >= _EACH:
            sys.stderr.write(f"{clean(message)}\n")
            self._last = passed
        self._said = message
        sys.stderr.flush()
