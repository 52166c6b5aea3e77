"""The layouts of many senders, in bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from misstep.store.layout import Decode, Layout, Reading
from misstep.store.template import Seen, Template, united
from misstep.store.walk import varint

BYTES = 128 * 1024 * 1024
"""Memory that layouts and templates may take, half of it each; the ones that were made longest ago go first."""

_UNITED_BYTES = 1024 * 1024
"""Above this a template is begun anew; a sender may have a new metric every day."""
_SENDERS = 100_000
_NAME_BYTES = 512
_WORTH = 64
"""Readings after which the making of a layout has paid."""

_Key = tuple[int, bytes]
"""Length of a request, and its sender."""


_K = TypeVar("_K")
_V = TypeVar("_V", Layout, Template)


class Known(NamedTuple):
    """A request that was read by a layout or a template."""

    layout: Layout | Seen
    reading: Reading


class _Tries:
    """How often a sender's requests could not be read, and how often they have to fail before something is made of one.

    Twice at once: what the first request left out is mostly in the second. A layout of a single request is made only
    where one was of use before.
    """

    __slots__ = ("hits", "misses", "steady", "until")

    def __init__(self) -> None:
        self.misses, self.until, self.hits, self.steady = 0, 0, 0, True

    def due(self) -> bool:
        """Count a miss; whether a layout is to be made now."""
        self.misses += 1
        if self.misses < self.until:
            return False
        self.misses, self.hits, self.until = 0, 0, min(1024, max(1, 2 * self.until))
        return True

    def proven(self) -> bool:
        """Whether a request has looked like one before it since this was asked; the first time that is believed."""
        steady, self.steady = self.steady, False
        return steady


class _Bounded(dict[_K, _V]):
    """So many bytes of what has a size."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.size, self._limit = 0, limit

    def put(self, key: _K, one: _V) -> None:
        self.drop(key)
        self[key] = one
        self.size += one.size
        while self.size > self._limit:
            self.drop(next(iter(self)))

    def drop(self, key: _K) -> None:
        old = self.pop(key, None)
        self.size -= old.size if old is not None else 0


class Layouts:
    """Reads what it can; what it cannot read it learns.

    `read` may be called from any thread, `learn` from one at a time. Making a layout costs as much as some
    hundred readings, so a sender whose requests look different each time is tried ever more seldom.
    """

    def __init__(self, limit: int = BYTES) -> None:
        self._layouts: _Bounded[_Key, Layout] = _Bounded(limit // 2)
        self._templates: _Bounded[bytes, Template] = _Bounded(limit // 2)
        self._tries: dict[bytes, _Tries] = {}

    @property
    def size(self) -> int:
        """Bytes that all of them take."""
        return self._layouts.size + self._templates.size

    def read(self, body: bytes) -> Known | None:
        """A request's points by the layout of one before it, or by what is known of its metrics; else None."""
        key = len(body), _sender(body)
        layout = self._layouts.get(key)
        reading = layout.read(body) if layout is not None else None
        known = Known(layout, reading) if layout is not None and reading is not None else None
        steady = known is not None
        if known is None and (template := self._templates.get(key[1])) is not None:
            read = template.read(body)
            known = Known(*read) if read is not None else None
        tries = self._tries.get(key[1])
        if known is not None and tries is not None:
            tries.steady |= steady
            tries.hits += 1
            if tries.hits >= _WORTH:
                self._tries.pop(key[1], None)
        return known

    def learn(self, bodies: Sequence[bytes], decode: Decode) -> None:
        """Requests were not read but decoded and accepted whole: take their layouts where that seems worth it."""
        due: dict[_Key, bytes] = {}
        alone = []
        for body in bodies:
            key = len(body), _sender(body)
            tries = self._tries.setdefault(key[1], _Tries())
            if key not in due and tries.due():
                due[key] = body
                alone += [body] if tries.proven() else []
        while len(self._tries) > _SENDERS:
            self._tries.pop(next(iter(self._tries)), None)
        if not due:
            return
        more = {key: self._united(key[1], body) for key, body in due.items()}
        wanted = list(dict.fromkeys([*alone, *more.values()]))
        made = dict(zip(wanted, Layout.of(wanted, decode), strict=True))
        for key, body in due.items():
            self._layouts.drop(key)
            if (layout := made.get(body)) is not None:
                self._layouts.put(key, layout)
            if (layout := made[more[key]]) is not None:
                with contextlib.suppress(ValueError, IndexError):
                    self._templates.put(key[1], Template(more[key], layout))

    def _united(self, sender: bytes, body: bytes) -> bytes:
        """What the sender told before and tells now, as one request."""
        template = self._templates.get(sender)
        if template is None:
            return body
        try:
            more = united(template.body, body)
        except (ValueError, IndexError):
            return body
        return more if len(more) <= max(_UNITED_BYTES, len(body)) else body


def _sender(body: bytes) -> bytes:
    """The first resource: two nodes never share an entry (if they did, each would evict the other)."""
    try:
        _, at = varint(body, 1)
        size, at = varint(body, at + 1)
    except IndexError:
        return b""
    return body[at : at + min(size, _NAME_BYTES)]
