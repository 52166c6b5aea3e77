"""OTLP over HTTP, protobuf: `/v1/metrics` and `/v1/logs`, answered once the disk has the request.

A plain ASGI function, because every agent passes here each second. The rules are those of
https://opentelemetry.io/docs/specs/otlp/#otlphttp; the comments name the ones that are easily missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from misstep.collector.access import Headers
from misstep.collector.answers import Answers
from misstep.collector.body import ENCODINGS, Budget, Receive, expand, read
from misstep.collector.refusal import Refusal
from misstep.collector.telemetry import Stopwatch, Telemetry
from misstep.core.errors import InputError, StorageError
from misstep.store.layouts import Known
from misstep.store.store import Batch, Receipt, Store

Send = Callable[[Any], Awaitable[None]]
Opened = tuple[bytes, bytes, str]
"""What `expand` returns."""

PATHS = {"/v1/metrics": "metrics", "/v1/logs": "logs"}
BODIES_BYTES = 256 * 1024 * 1024
WAITING_LIMIT = 1024
"""Requests that may wait for the disk at once."""
_INLINE_BYTES = 128 * 1024
_INLINE_COMPRESSED = 16 * 1024
"""Bodies above these, as sent, are decompressed and parsed in a thread; below, the hand-over costs more."""
_RETRY_SECONDS = 5
_TYPE = b"application/x-protobuf"
_OK = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", _TYPE), (b"content-length", b"0")],
}
_EMPTY = {"type": "http.response.body", "body": b""}
_PARSE = {
    "metrics": ExportMetricsServiceRequest.FromString,
    "logs": ExportLogsServiceRequest.FromString,
}
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 413: 3, 415: 3, 429: 8, 503: 14}
_log = logging.getLogger(__name__)


class Receiver:
    """Takes requests into the store.

    Args:
        store: where they are appended.
        body_limit: bytes of one request after decompression.
        telemetry: where answers are counted.
    """

    def __init__(self, store: Store, body_limit: int, telemetry: Telemetry) -> None:
        self._store = store
        self._limit = body_limit
        self._telemetry = telemetry
        self._budget = Budget(max(BODIES_BYTES, 2 * body_limit))
        self._waiting = 0
        self._answers = Answers()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="otlp")
        telemetry.body_bytes.set_function(lambda: self._budget.used)

    async def __call__(self, signal: str, headers: Headers, receive: Receive, send: Send) -> None:
        """Serve one POST whose sender was admitted.

        Raises:
            Refusal: it was not stored.
        """
        encoding = _encoding_of(headers)
        agent, boot, seq = _sender_of(headers)
        body = await read(receive, headers.get(b"content-length"), self._limit, self._budget)
        taken = len(body)
        watch = Stopwatch()
        try:
            (plain, kept, kept_encoding), known = await self._open(body, encoding, signal)
            self._budget.take(len(plain))
            taken += len(plain)
            receipt = await self._append(Batch(signal, kept, kept_encoding, agent, boot, seq), plain, known)
        finally:
            self._budget.give(taken)
        self._count(signal, len(body), receipt, watch)
        # A plain success leaves partial_success unset, which is the empty message.
        if not receipt.rejected and not receipt.warning:
            await send(_OK)
            await send(_EMPTY)
            return
        await respond(send, 200, _partial(signal, receipt))

    async def _open(self, body: bytes, encoding: str, signal: str) -> tuple[Opened, Known | None]:
        if len(body) <= (_INLINE_COMPRESSED if encoding else _INLINE_BYTES):
            return self._checked(body, encoding, signal)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._checked, body, encoding, signal)

    def _checked(self, body: bytes, encoding: str, signal: str) -> tuple[Opened, Known | None]:
        """Decompressed and found well formed; a message that was parsed for that is thrown away."""
        opened = expand(body, encoding, self._limit)
        known = self._store.recognise(signal, opened[0])
        if known is None:
            try:
                _PARSE[signal](opened[0])
            except DecodeError:
                raise Refusal(
                    400,
                    "malformed",
                    f"the body is not an OTLP Export{signal.capitalize()}ServiceRequest in protobuf",
                ) from None
        return opened, known

    async def _append(self, batch: Batch, plain: bytes, known: Known | None) -> Receipt:
        if self._waiting >= WAITING_LIMIT:
            raise Refusal(429, "overload", "too many requests wait for the disk", retry_after=1)
        self._waiting += 1
        try:
            return await self._answers.of(self._store.append(batch, plain, known))
        except StorageError as error:
            _log.warning("refused a request: %s", error)
            raise Refusal(503, "storage", str(error), retry_after=_RETRY_SECONDS) from error
        except InputError as error:
            raise Refusal(400, "malformed", str(error)) from error
        finally:
            self._waiting -= 1

    def _count(self, signal: str, size: int, receipt: Receipt, watch: Stopwatch) -> None:
        telemetry = self._telemetry
        telemetry.requests[signal].inc()
        telemetry.received[signal].inc(size)
        telemetry.ack_seconds.observe(watch.seconds())
        if receipt.duplicate:
            telemetry.duplicates[signal].inc()
        if receipt.rejected:
            telemetry.rejected[signal].inc(receipt.rejected)


async def respond(
    send: Send, status: int, body: bytes, kind: bytes = _TYPE, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """Send one whole answer."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer with a google.rpc.Status, in protobuf as the request was."""
    body = status_message(_CODES.get(refusal.status, 2), refusal.message)
    await respond(send, refusal.status, body, extra=refusal.headers())


def status_message(code: int, message: str) -> bytes:
    """A google.rpc.Status (code = 1, message = 2) on the wire."""
    text = message[:1000].encode()
    size = len(text)
    length = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return b"\x08" + bytes([code]) + b"\x12" + length + text


def _encoding_of(headers: Headers) -> str:
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media != _TYPE:
        hint = "OTLP in JSON is not taken yet; " if media == b"application/json" else ""
        raise Refusal(415, "media_type", f"{hint}send Content-Type: application/x-protobuf")
    named = headers.get(b"content-encoding", b"").strip().lower()
    encoding = ENCODINGS.get(named)
    if encoding is None:
        raise Refusal(415, "encoding", "send Content-Encoding gzip, deflate or identity")
    return encoding


def _sender_of(headers: Headers) -> tuple[str, str, int]:
    """Agent, boot and sequence number of a request that is stored once; ("", "", -1) without them."""
    boot = headers.get(b"misstep-boot")
    if boot is None:
        return "", "", -1
    agent, seq = headers.get(b"misstep-agent", b""), headers.get(b"misstep-seq", b"")
    if not (0 < len(boot) <= 64 and 0 < len(agent) <= 256 and seq.isdigit() and len(seq) <= 18):
        raise Refusal(
            400,
            "agent_headers",
            "Misstep-Boot needs Misstep-Agent and a whole number in Misstep-Seq beside it",
        )
    return agent.decode("latin-1"), boot.decode("latin-1"), int(seq)


def _partial(signal: str, receipt: Receipt) -> bytes:
    if signal == "metrics":
        metrics = ExportMetricsServiceResponse()
        metrics.partial_success.rejected_data_points = receipt.rejected
        metrics.partial_success.error_message = receipt.warning
        return bytes(metrics.SerializeToString())
    logs = ExportLogsServiceResponse()
    logs.partial_success.rejected_log_records = receipt.rejected
    logs.partial_success.error_message = receipt.warning
    return bytes(logs.SerializeToString())
