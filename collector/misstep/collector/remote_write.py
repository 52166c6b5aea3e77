"""Prometheus remote write 1.0: `/api/v1/write`, https://prometheus.io/docs/specs/prw/remote_write_spec/.

Version 2 is refused with 415, upon which its senders fall back. Samples that cannot be stored are answered with 400,
never with 5xx: a sender repeats those for ever. What was good beside them is stored.
"""

from __future__ import annotations

from misstep.collector.access import Headers
from misstep.collector.body import Receive, read
from misstep.collector.door import Door, Parcel, sender_of
from misstep.collector.otlp import Send, respond
from misstep.collector.refusal import Refusal
from misstep.store import otlp

PATH = "/api/v1/write"
_TEXT = b"text/plain; charset=utf-8"
_PROTOBUF = "application/x-protobuf"
_MESSAGES = ("", "prometheus.WriteRequest")
_VERSION = b"x-prometheus-remote-write-version"


class RemoteWriteReceiver:
    """Serves remote write.

    Args:
        door: where requests are taken in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, headers: Headers, receive: Receive, send: Send, tenant: bytes = b"") -> None:
        """Serve one POST whose sender was admitted.

        Raises:
            Refusal: nothing of it was stored.
        """
        _check(headers)
        door = self._door
        sender = sender_of(headers)
        body = await read(receive, headers.get(b"content-length"), door.limit, door.budget)
        try:
            receipt = await door.take(Parcel(otlp.REMOTE_WRITE, body, "snappy", False, sender, tenant))
        finally:
            door.budget.give(len(body))
        if receipt.rejected:
            await respond(send, 400, receipt.warning.encode(), _TEXT)
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer in words."""
    await respond(send, refusal.status, refusal.message.encode(), _TEXT, refusal.headers())


def _check(headers: Headers) -> None:
    media, _, parameters = headers.get(b"content-type", b"").decode("latin-1").partition(";")
    named = {
        key.strip().lower(): value.strip().strip('"')
        for key, _, value in (part.partition("=") for part in parameters.split(";") if part.strip())
    }
    version = headers.get(_VERSION, b"0.1.0")
    if media.strip().lower() != _PROTOBUF or named.get("proto", "") not in _MESSAGES or version[:2] == b"2.":
        raise Refusal(
            415, "media_type", f"remote write 1.0 is taken: {_PROTOBUF} with a prometheus.WriteRequest"
        )
    if headers.get(b"content-encoding", b"snappy").strip().lower() != b"snappy":
        raise Refusal(415, "encoding", "send Content-Encoding: snappy")
