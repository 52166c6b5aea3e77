"""OTLP over gRPC: the same door as HTTP. Requests are handed on as bytes, so that nothing is parsed twice.

Codes and retry information: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc. Loaded once connections are taken
over HTTP, because gRPC takes a moment to load.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from misstep.collector import status
from misstep.collector.access import Access, Headers, Peer
from misstep.collector.door import Door, Parcel, sender_of, tenant_of
from misstep.collector.refusal import Refusal
from misstep.collector.telemetry import Telemetry
from misstep.store import otlp

SERVICES = {
    "opentelemetry.proto.collector.metrics.v1.MetricsService": otlp.METRICS,
    "opentelemetry.proto.collector.logs.v1.LogsService": otlp.LOGS,
    "opentelemetry.proto.collector.trace.v1.TraceService": otlp.TRACES,
}
_STREAMS_LIMIT = 64
"""Requests that one connection may have under way: each is in memory before we see it."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS = "grpc-status-details-bin"
_log = logging.getLogger(__name__)

Handler = Callable[[bytes, Any], Awaitable[bytes]]


class GrpcServer:
    """Serves OTLP on one address.

    Args:
        access: who may send.
        door: where requests are taken in.
        telemetry: where refusals are counted.
        host: address to listen on.
        port: of the host.
        tls: uvicorn's arguments for it; empty for none.
    """

    def __init__(
        self, access: Access, door: Door, telemetry: Telemetry, host: str, port: int, tls: dict[str, Any]
    ) -> None:
        self._access, self._door, self._telemetry = access, door, telemetry
        self._address = (host, port)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", door.limit),
                ("grpc.max_concurrent_streams", _STREAMS_LIMIT),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(
                    service, {"Export": grpc.unary_unary_rpc_method_handler(self._handler(signal))}
                )
                for service, signal in SERVICES.items()
            )
        )
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tls:
            self._server.add_secure_port(target, _credentials(tls))
        else:
            self._server.add_insecure_port(target)

    async def start(self) -> None:
        """Take connections."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Let requests under way end for so many seconds, then end."""
        await self._server.stop(grace)

    def _handler(self, signal: str) -> Handler:
        async def export(request: bytes, context: Any) -> bytes:
            try:
                return await self._take(signal, request, context)
            except Refusal as refusal:
                await self._refuse(refusal, context)
            except Exception:  # noqa: BLE001 - one request must not end the process
                _log.exception("an Export of %s failed", signal)
                failed = Refusal(500, "internal", "the collector failed; its log says why")
                await self._refuse(failed, context)
            return b""

        return export

    async def _take(self, signal: str, request: bytes, context: Any) -> bytes:
        headers = _headers(context)
        peer = Peer(_client(context.peer()), self._address)
        self._access.admit_user(peer, headers, "ingest")
        tenant = tenant_of(headers, peer.uid())
        self._door.admit(tenant)
        sender = sender_of(headers)
        self._door.budget.take(len(request))
        try:
            receipt = await self._door.take(Parcel(signal, request, sender=sender, tenant=tenant))
        finally:
            self._door.budget.give(len(request))
        return status.success(signal, receipt.rejected, receipt.warning, status.PROTOBUF)

    async def _refuse(self, refusal: Refusal, context: Any) -> None:
        self._telemetry.refused[refusal.reason].inc()
        details = status.status(refusal, status.PROTOBUF)
        context.set_trailing_metadata(((_DETAILS, details),))
        await context.abort(_CODES[status.code_of(refusal)], refusal.message)


def _headers(context: Any) -> Headers:
    found: Headers = {}
    for key, value in context.invocation_metadata() or ():
        found[key.encode()] = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
    return found


def _client(peer: str) -> tuple[str, int]:
    """``ipv4:127.0.0.1:5`` or ``ipv6:%5B::1%5D:5`` as address and port."""
    _, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


def _credentials(tls: dict[str, Any]) -> Any:
    key, chain = (Path(tls[name]).read_bytes() for name in ("ssl_keyfile", "ssl_certfile"))
    return grpc.ssl_server_credentials([(key, chain)])
