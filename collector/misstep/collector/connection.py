"""uvicorn's connection, with three additions: it knows its peer, it ends where headers have no end, and it takes
the next request of a steady sender by itself.

Nearly all that a collector is sent are metrics that look like those before. For them uvicorn's scope, task and messages
cost more than storing does; everything else goes its way.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from misstep.collector.access import Peer, headers_of

HEAD_LIMIT = 64 * 1024
"""Bytes of request line and headers; the parser below has no limit of its own."""

STEADY_PATH = b"/v1/metrics"
_STEADY_BYTES = 256 * 1024
_STEADY_CONNECTIONS = 256
_STEADY_SECONDS = 1.0
"""A body may be so large, wait for its rest on so many connections and for so long before it goes uvicorn's way, where
bodies are held against the budget: 64 MiB at most."""

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class _Steady:
    """A request that is being answered, with what uvicorn looks at in its own."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, message_event: asyncio.Event, *, keep_alive: bool) -> None:
        self.message_event, self.keep_alive = message_event, keep_alive
        self.disconnected = self.response_complete = False


class Connection(HttpToolsProtocol):
    """The peer stands in each scope under ``misstep.peer``, so that its owner is looked up once per connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer = Peer(("", 0), ("", 0))
        self._head: int | None = 0
        self._parts: list[bytes] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._event = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember both ends."""
        super().connection_made(transport)
        server = self.server or ("", 0)
        self._peer = Peer(self.client or ("", 0), (server[0], server[1] or 0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self._parts = None
        self._hurry()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser unless a head has grown past its limit."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()
        if self._parts is not None and self._patience is None:
            wait = _STEADY_SECONDS if len(self.connections) <= _STEADY_CONNECTIONS else 0
            self._patience = self.loop.call_later(wait, self._hand_over)

    def on_message_begin(self) -> None:
        """Open a scope that carries the peer."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["misstep.peer"] = self._peer

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head = None
        if self.url == STEADY_PATH and self._may_be_steady():
            self._parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if self._parts is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._head = 0
        if self._parts is None or not self._take(b"".join(self._parts)):
            self._hand_over()
            super().on_message_complete()

    def _may_be_steady(self) -> bool:
        size = next((value for name, value in self.headers if name == b"content-length"), b"")
        return (
            size.isdigit()
            and int(size) <= _STEADY_BYTES
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and (self.cycle is None or self.cycle.response_complete)
            and not (self.limit_concurrency and len(self.connections) >= self.limit_concurrency)
        )

    def _take(self, body: bytes) -> bool:
        taken = _Steady(self._event, keep_alive=self.parser.should_keep_alive())
        done = functools.partial(self._answer, taken)
        application: Any = self.config.loaded_app
        path, scheme = STEADY_PATH.decode(), self.scheme or "http"
        if not application.take_steady(path, self._peer, scheme, headers_of(self.scope), body, done):
            return False
        self._parts = None
        self._hurry()
        self.cycle = taken  # type: ignore[assignment]
        return True

    def _hand_over(self) -> None:
        """Let uvicorn have the request, with what has come of its body."""
        self._hurry()
        parts, self._parts = self._parts, None
        if parts is not None:
            super().on_headers_complete()
            for part in parts:
                super().on_body(part)

    def _hurry(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _answer(self, taken: _Steady, head: bytes, body: bytes) -> None:
        taken.response_complete = True
        if taken.disconnected or self.transport.is_closing():
            return
        more = [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        end = b"\r\n" if taken.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join([head, *more, end, body]))
        if not taken.keep_alive:
            self.transport.close()
        self.on_response_complete()
