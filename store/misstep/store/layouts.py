"""The layouts of many senders, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from misstep.store.layout import Decode, Layout, Reading
from misstep.store.pieces import Pieces
from misstep.store.walk import varint

BYTES = 128 * 1024 * 1024
"""Memory that layouts and their pieces may take, half of it each; the ones that were made longest ago go first."""

_SENDERS = 100_000
_NAME_BYTES = 512
_WORTH = 64
"""Readings after which the making of a layout has paid."""

_Key = tuple[int, bytes]
"""Length of a request, and its sender."""


class Known(NamedTuple):
    """A request that was read by a layout."""

    layout: Layout
    reading: Reading


class _Tries:
    """How often a sender's requests could not be read, and how often they have to fail before a layout is made."""

    __slots__ = ("hits", "misses", "until")

    def __init__(self) -> None:
        self.misses, self.until, self.hits = 0, 1, 0

    def due(self) -> bool:
        """Count a miss; whether a layout is to be made now."""
        self.misses += 1
        if self.misses < self.until:
            return False
        self.misses, self.hits, self.until = 0, 0, min(1024, 2 * self.until)
        return True


class Layouts:
    """Reads what it can; what it cannot read it learns.

    `read` may be called from any thread, `learn` from one at a time. Making a layout costs as much as some
    hundred readings, so a sender whose requests look different each time is tried ever more seldom.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self._limit = limit // 2
        self._lock = threading.Lock()
        self._layouts: dict[_Key, Layout] = {}
        self._taken = 0
        self._pieces = Pieces(limit - self._limit)
        self._passing: dict[bytes, _Key] = {}
        self._tries: dict[bytes, _Tries] = {}

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return self._taken + self._pieces.size

    def read(self, body: bytes) -> Known | None:
        """A request's points by the layout of one before it, or by what is known of each of its metrics; else None."""
        key = len(body), _sender(body)
        layout = self._layouts.get(key)
        reading = layout.read(body) if layout is not None else None
        if reading is not None:
            if self._passing.get(key[1]) == key:
                self._passing.pop(key[1], None)
        else:
            layout = self._pieces.layout(body)
            reading = layout.read(body) if layout is not None else None
            if layout is not None and reading is not None:
                self._pass(key, layout)
        if layout is None or reading is None:
            return None
        tries = self._tries.get(key[1])
        if tries is not None:
            tries.hits += 1
            if tries.hits >= _WORTH:
                self._tries.pop(key[1], None)
        return Known(layout, reading)

    def learn(self, bodies: Sequence[bytes], decode: Decode) -> None:
        """Requests were not read but decoded and accepted whole: take their layouts where that seems worth it."""
        due: dict[_Key, bytes] = {}
        for body in bodies:
            key = len(body), _sender(body)
            if key not in due and self._tries.setdefault(key[1], _Tries()).due():
                due[key] = body
        while len(self._tries) > _SENDERS:
            self._tries.pop(next(iter(self._tries)), None)
        if not due:
            return
        for (key, body), layout in zip(due.items(), Layout.of(list(due.values()), decode), strict=True):
            with self._lock:
                self._put(key, layout)
            if layout is not None:
                self._pieces.learn(body, layout)

    def _pass(self, key: _Key, layout: Layout) -> None:
        """Keep what was put together until the sender's next request, which may look the same."""
        with self._lock:
            self._forget(self._passing.get(key[1], key))
            self._passing[key[1]] = key
            self._put(key, layout)

    def _put(self, key: _Key, layout: Layout | None) -> None:
        self._forget(key)
        if layout is not None:
            self._layouts[key] = layout
            self._taken += layout.size
        while self._taken > self._limit:
            self._forget(next(iter(self._layouts)))

    def _forget(self, key: _Key) -> None:
        layout = self._layouts.pop(key, None)
        if layout is not None:
            self._taken -= layout.size
            if self._passing.get(key[1]) == key:
                self._passing.pop(key[1], None)


def _sender(body: bytes) -> bytes:
    """The first resource: two nodes never share an entry (if they did, each would evict the other)."""
    try:
        _, at = varint(body, 1)
        size, at = varint(body, at + 1)
    except IndexError:
        return b""
    return body[at : at + min(size, _NAME_BYTES)]
