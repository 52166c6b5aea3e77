"""OTLP over HTTP, protobuf and JSON: `/v1/metrics`, `/v1/logs` and `/v1/traces`, answered once the disk has the request.

A plain ASGI function, because every agent passes here each second. The rules are those of
https://opentelemetry.io/docs/specs/otlp/#otlphttp; the comments name the ones that are easily missed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from misstep.collector import status
from misstep.collector.access import Headers
from misstep.collector.body import ENCODINGS, Receive, read
from misstep.collector.door import Door, Parcel, sender_of
from misstep.collector.refusal import Refusal
from misstep.store import otlp

Send = Callable[[Any], Awaitable[None]]

PATHS = {"/v1/metrics": otlp.METRICS, "/v1/logs": otlp.LOGS, "/v1/traces": otlp.TRACES}
_MEDIA = (status.PROTOBUF, status.JSON)
_OK = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", status.PROTOBUF), (b"content-length", b"0")],
}
_EMPTY = {"type": "http.response.body", "body": b""}
ACCEPTED = (b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n", b"")
"""The same as bytes: the head, open for more headers, and the body."""


class Receiver:
    """Serves OTLP over HTTP.

    Args:
        door: where requests are taken in.
    """

    def __init__(self, door: Door) -> None:
        self.door = door

    async def __call__(
        self, signal: str, headers: Headers, receive: Receive, send: Send, tenant: bytes = b""
    ) -> None:
        """Serve one POST whose sender was admitted.

        Raises:
            Refusal: it was not stored.
        """
        media = _media(headers)
        if media not in _MEDIA:
            raise Refusal(415, "media_type", "send Content-Type: application/x-protobuf or application/json")
        compression = _compression(headers)
        sender = sender_of(headers)
        door = self.door
        body = await read(receive, headers.get(b"content-length"), door.limit, door.budget)
        try:
            receipt = await door.take(Parcel(signal, body, compression, media == status.JSON, sender, tenant))
        finally:
            door.budget.give(len(body))
        if media == status.PROTOBUF and not receipt.rejected and not receipt.warning:
            await send(_OK)
            await send(_EMPTY)
            return
        await respond(send, 200, status.success(signal, receipt.rejected, receipt.warning, media), media)

    def take_steady(
        self,
        signal: str,
        headers: Headers,
        body: bytes,
        tenant: bytes,
        done: Callable[[Refusal | None], None],
    ) -> bool:
        """See `Door.take_steady`."""
        if _media(headers) != status.PROTOBUF:
            return False
        parcel = Parcel(signal, body, _compression(headers), False, sender_of(headers), tenant)
        return self.door.take_steady(parcel, done)


async def respond(
    send: Send,
    code: int,
    body: bytes,
    kind: bytes = status.PROTOBUF,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send one whole answer."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *(extra or [])]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal, headers: Headers) -> None:
    """Answer with a google.rpc.Status, of the type of the request; protobuf for types that are not ours."""
    media = status.JSON if _media(headers) == status.JSON else status.PROTOBUF
    await respond(send, refusal.status, status.status(refusal, media), media, refusal.headers())


def refused(refusal: Refusal) -> tuple[bytes, bytes]:
    """The same as bytes, for a request in protobuf: the head, open for more headers, and the body."""
    body = status.status(refusal, status.PROTOBUF)
    lines = [b"HTTP/1.1 %d %s" % (refusal.status, HTTPStatus(refusal.status).phrase.encode())]
    pairs = [(b"content-type", status.PROTOBUF), (b"content-length", b"%d" % len(body)), *refusal.headers()]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in pairs), b""]), body


def _media(headers: Headers) -> bytes:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _compression(headers: Headers) -> str:
    found = ENCODINGS.get(headers.get(b"content-encoding", b"").strip().lower())
    if found is None:
        raise Refusal(415, "encoding", "send Content-Encoding gzip, deflate, zstd or identity")
    return found
