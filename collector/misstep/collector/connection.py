"""uvicorn's connection, with two additions: it knows its peer, and it ends where headers have no end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from misstep.collector.access import Peer

HEAD_LIMIT = 64 * 1024
"""Bytes of request line and headers; the parser below has no limit of its own."""

_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection(HttpToolsProtocol):
    """The peer stands in each scope under ``misstep.peer``, so that its owner is looked up once per connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._peer = Peer(("", 0), ("", 0))
        self._head: int | None = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember both ends."""
        super().connection_made(transport)
        server = self.server or ("", 0)
        self._peer = Peer(self.client or ("", 0), (server[0], server[1] or 0))

    def data_received(self, data: bytes) -> None:
        """Feed the parser unless a head has grown past its limit."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > HEAD_LIMIT and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Open a scope that carries the peer."""
        super().on_message_begin()
        cast(dict[str, Any], self.scope)["misstep.peer"] = self._peer

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._head = 0
        super().on_message_complete()
