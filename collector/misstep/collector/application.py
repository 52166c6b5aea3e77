"""The one ASGI application behind every port: access first, then OTLP on the short way, the rest on Starlette."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from misstep.collector import neighbours, remote_write
from misstep.collector.access import Access, Headers, Peer, headers_of
from misstep.collector.body import Receive
from misstep.collector.dialect import Dialect
from misstep.collector.door import tenant_of
from misstep.collector.otlp import ACCEPTED, PATHS, Receiver, Send, refuse, refused, respond
from misstep.collector.refusal import Refusal
from misstep.collector.remote_write import RemoteWriteReceiver
from misstep.collector.telemetry import Telemetry
from misstep.store.store import Store

OPEN_PATHS = ("/healthz", "/readyz")
"""Asked by supervisors that hold no token; they tell nothing but yes or no."""
Done = Callable[[bytes, bytes], None]
_log = logging.getLogger(__name__)


class Application:
    """Serves one collector.

    Args:
        access: who may ask.
        receiver: takes OTLP.
        api: ASGI application for everything else.
        telemetry: where refusals are counted.
        dialects: APIs that others defined, each below prefixes of its own.
        store: whose unsealed rows other collectors may ask for.
    """

    def __init__(
        self,
        access: Access,
        receiver: Receiver,
        api: Any,
        telemetry: Telemetry,
        dialects: Sequence[Dialect] = (),
        store: Store | None = None,
        writer: RemoteWriteReceiver | None = None,
    ) -> None:
        self._writer = writer
        self._store = store
        self._dialects = [(prefix, dialect) for dialect in dialects for prefix in dialect.prefixes]
        self._access = access
        self._receiver = receiver
        self._api = api
        self._telemetry = telemetry

    def take_steady(
        self, path: str, peer: Peer, scheme: str, headers: Headers, body: bytes, done: Done
    ) -> bool:
        """Take a POST of OTLP whose sender is known and whose request looks like the one before.

        Args:
            path: of the request.
            peer: of the connection.
            scheme: http or https.
            headers: by lower-case name.
            body: whole, as sent.
            done: called in the loop with the answer's head, open for more headers, and its body.

        Returns:
            False if it is to be served like any other, which also finds out why it is refused.
        """
        try:
            self._access.admit_page(peer, scheme, headers)
            self._access.admit_user(peer, headers, "ingest")

            def answered(refusal: Refusal | None) -> None:
                if refusal is not None:
                    self._telemetry.refused[refusal.reason].inc()
                done(*(ACCEPTED if refusal is None else refused(refusal)))

            return self._receiver.take_steady(
                PATHS[path], headers, body, tenant_of(headers, peer.uid()), answered
            )
        except Refusal:
            return False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        path: str = scope["path"]
        try:
            headers = headers_of(scope)
            peer: Peer = scope["misstep.peer"]
            self._access.admit_page(peer, scope["scheme"], headers)
            signal = PATHS.get(path)
            if signal is not None:
                tenant = self._admit(scope["method"], peer, headers)
                await self._receiver(signal, headers, receive, send, tenant)
                return
            if path == remote_write.PATH and self._writer is not None:
                tenant = self._admit(scope["method"], peer, headers)
                await self._writer(headers, receive, send, tenant)
                return
            if path not in OPEN_PATHS:
                self._access.admit_user(peer, headers, "read")
            if path.startswith("/v1/"):
                raise Refusal(
                    404, "path", f"nothing is taken at {path}; this collector takes {', '.join(PATHS)}"
                )
            if path == neighbours.PATH and self._store is not None:
                await self._tell(self._store, scope["query_string"], send)
                return
            await (self._dialect(path) or self._api)(scope, receive, self._marked(send))
        except Refusal as refusal:
            await self._refuse(path, refusal, send, headers_of(scope))
        except Exception:  # noqa: BLE001 - one request must not end the process
            _log.exception("%s %s failed", scope["method"], path)
            failed = Refusal(500, "internal", "the collector failed; its log says why")
            await self._refuse(path, failed, send, headers_of(scope))

    def _admit(self, method: str, peer: Peer, headers: Headers) -> bytes:
        if method != "POST":
            raise Refusal(405, "method", "send telemetry with POST")
        self._access.admit_user(peer, headers, "ingest")
        tenant = tenant_of(headers, peer.uid())
        self._receiver.door.admit(tenant)
        return tenant

    async def _tell(self, store: Store, query: bytes, send: Send) -> None:
        try:
            body = await asyncio.to_thread(neighbours.told, store, query)
        except ValueError as error:
            raise Refusal(400, "parameter", "after must be a position") from error
        await respond(send, 200, body, neighbours.KIND)

    def _marked(self, send: Send) -> Send:
        """Marks an answer that was made without what another collector holds."""
        if self._store is None:
            return send
        store = self._store

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start" and store.missing:
                names = "; ".join(store.missing).encode("ascii", "replace")
                message = {**message, "headers": [*message.get("headers", ()), (neighbours.HEADER, names)]}
            await send(message)

        return marked

    async def _refuse(self, path: str, refusal: Refusal, send: Send, headers: Headers) -> None:
        self._telemetry.refused[refusal.reason].inc()
        if path.startswith("/v1/"):
            await refuse(send, refusal, headers)
            return
        if path == remote_write.PATH:
            await remote_write.refuse(send, refusal)
            return
        if dialect := self._dialect(path):
            body, media = dialect.shape(refusal)
            await respond(send, refusal.status, body, media, refusal.headers())
            return
        body = msgspec.json.encode({"error": refusal.message})
        await respond(send, refusal.status, body, b"application/json", refusal.headers())

    def _dialect(self, path: str) -> Dialect | None:
        return next((dialect for prefix, dialect in self._dialects if path.startswith(prefix)), None)
