"""What the demo says while it works, on stderr: steps with their time, and what Misstep sees, as it sees it."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from misstep.core.clock import SECOND


class Narration:
    """One line at a time; on a terminal a waiting line with a running clock stands below.

    Args:
        color: paint with ANSI codes.
    """

    def __init__(self, *, color: bool) -> None:
        self._color = color
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._seen: set[tuple[int, str]] = set()
        self._waiting = False

    def step(self, text: str) -> None:
        """A step of the demo itself."""
        self._line(f"{self._dim(f'{self.seconds():5.1f} s')}  {text}")

    def waiting(self, text: str) -> None:
        """What is being waited for; it is overwritten, and only shown on a terminal."""
        if self._live:
            sys.stderr.write(f"\r\033[K{self._dim(f'{self.seconds():5.1f} s  … {text}')}")
            sys.stderr.flush()
            self._waiting = True

    def timeline(self, entries: list[dict[str, Any]]) -> None:
        """What Misstep saw, each entry once."""
        for entry in sorted(entries, key=lambda entry: int(entry["ts_ns"])):
            key = int(entry["ts_ns"]), str(entry["statement"])
            if key not in self._seen:
                self._seen.add(key)
                clock = datetime.fromtimestamp(key[0] / SECOND).strftime("%H:%M:%S")
                self._line(f"         {self._dim(clock)}  {_clean(key[1])}")

    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._started

    def _line(self, text: str) -> None:
        if self._waiting:
            sys.stderr.write("\r\033[K")
            self._waiting = False
        print(text, file=sys.stderr, flush=True)

    def _dim(self, text: str) -> str:
        return f"\033[2m{text}\033[0m" if self._color else text


def _clean(text: str) -> str:
    """Statements hold names and messages of the workload; a control sequence in one must not act here."""
    return "".join(character if character.isprintable() else " " for character in text)
