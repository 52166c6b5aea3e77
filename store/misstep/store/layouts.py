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


class _Sender:
    """What is known of the requests of one sender and length."""

    __slots__ = ("layout", "misses", "next")

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.misses = 0
        self.next = 2

    def hit(self) -> None:
        """Its layout is worth keeping up to date."""
        self.misses, self.next = 0, 1


class Layouts:
    """Reads what it can; what it cannot read it learns, once it comes again.

    `read` may be called from any thread, `learn` from one at a time. Making a layout costs as much as some
    hundred readings, so a sender whose requests look different each time is tried ever more seldom.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self._limit = limit
        self._senders: dict[bytes, _Sender] = {}
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def read(self, body: bytes) -> Known | None:
        """A request's points by the layout of its sender's last one; None where there is none or it does not fit."""
        sender = self._senders.get(_key(body))
        if sender is not None and sender.layout is not None:
            reading = sender.layout.read(body)
            if reading is not None:
                sender.hit()
                self.hits += 1
                return Known(sender.layout, reading)
        self.misses += 1
        return None

    def learn(self, body: bytes, decode: Callable[[bytes], Reading | None]) -> None:
        """A request was not read but decoded and accepted whole: take its layout if that seems worth it."""
        key = _key(body)
        sender = self._senders.pop(key, None) or _Sender()
        self._senders[key] = (
            sender  # at the end: dictionaries keep the order, and the first are dropped first
        )
        sender.misses += 1
        if sender.misses >= sender.next:
            self._forget(sender)
            sender.misses, sender.next = 0, min(1024, 2 * sender.next)
            sender.layout = Layout.of(body, decode)
            self.bytes += sender.layout.size if sender.layout is not None else 0
        while self.bytes > self._limit or len(self._senders) > _SENDERS:
            self._forget(self._senders.pop(next(iter(self._senders))))

    def _forget(self, sender: _Sender) -> None:
        if sender.layout is not None:
            self.bytes -= sender.layout.size
            sender.layout = None


def _key(body: bytes) -> bytes:
    """Length and first resource: two nodes never share an entry (if they did, each would evict the other)."""
    try:
        _, at = varint(body, 1)
        size, at = varint(body, at + 1)
    except IndexError:
        return b""
    return b"%d " % len(body) + body[at : at + min(size, _NAME_BYTES)]
