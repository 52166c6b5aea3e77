"""The layouts of many senders, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from misstep.store.layout import Layout, Reading, varint

BYTES = 128 * 1024 * 1024
"""Memory that layouts may take; the ones that were made longest ago go first."""

_SENDERS = 100_000
_NAME_BYTES = 512


class Known(NamedTuple):
    """A request that was read by a layout."""

    layout: Layout
    reading: Reading


class _Tries:
    """How often a sender's requests could not be read, and how often they have to fail before a layout is made."""

    __slots__ = ("misses", "until")

    def __init__(self) -> None:
        self.misses, self.until = 0, 2


class Layouts:
    """Reads what it can; what it cannot read it learns, once it comes again.

    `read` may be called from any thread, `learn` from one at a time. Making a layout costs as much as some
    hundred readings, so a sender whose requests look different each time is tried ever more seldom.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self._limit = limit
        self._layouts: dict[bytes, Layout] = {}
        self._tries: dict[bytes, _Tries] = {}
        self.bytes = 0

    def read(self, body: bytes) -> Known | None:
        """A request's points by the layout of its sender's last one; None where there is none or it does not fit."""
        key = _key(body)
        layout = self._layouts.get(key)
        reading = layout.read(body) if layout is not None else None
        if layout is None or reading is None:
            return None
        self._tries.pop(key, None)
        return Known(layout, reading)

    def learn(self, body: bytes, decode: Callable[[bytes], Reading | None]) -> None:
        """A request was not read but decoded and accepted whole: take its layout if that seems worth it."""
        key = _key(body)
        tries = self._tries.setdefault(key, _Tries())
        if len(self._tries) > _SENDERS:
            self._tries.pop(next(iter(self._tries)), None)
        tries.misses += 1
        if tries.misses < tries.until:
            return
        tries.misses, tries.until = 0, min(1024, 2 * tries.until)
        self._forget(key)
        layout = Layout.of(body, decode)
        if layout is not None:
            self._layouts[key] = layout
            self.bytes += layout.size
        while self.bytes > self._limit:
            self._forget(next(iter(self._layouts)))

    def _forget(self, key: bytes) -> None:
        layout = self._layouts.pop(key, None)
        if layout is not None:
            self.bytes -= layout.size


def _key(body: bytes) -> bytes:
    """Length and first resource: two nodes never share an entry (if they did, each would evict the other)."""
    try:
        _, at = varint(body, 1)
        size, at = varint(body, at + 1)
    except IndexError:
        return b""
    return b"%d " % len(body) + body[at : at + min(size, _NAME_BYTES)]
