"""Answers of OTLP: ``google.rpc.Status`` and partial successes, in protobuf and in JSON.

Both are written by hand: two fields each, and the classes would bring a package of their own.
"""

from __future__ import annotations

import msgspec

from misstep.collector.refusal import Refusal
from misstep.store.walk import digits, framed

PROTOBUF = b"application/x-protobuf"
JSON = b"application/json"

_REJECTED = {
    "metrics": "rejectedDataPoints",
    "logs": "rejectedLogRecords",
    "traces": "rejectedSpans",
}
# https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 413: 3, 415: 3, 429: 8, 503: 14}
_INTERNAL = 13
_TEXT_LIMIT = 1000


def code_of(refusal: Refusal) -> int:
    """The gRPC code for a refusal."""
    return _CODES.get(refusal.status, _INTERNAL)


def status(refusal: Refusal, media: bytes) -> bytes:
    """The body that says why: ``code = 1``, ``message = 2``, ``details = 3``."""
    text = refusal.message[:_TEXT_LIMIT]
    if media == JSON:
        return msgspec.json.encode({"code": code_of(refusal), "message": text})
    body = b"\x08" + digits(code_of(refusal)) + framed(2, text.encode())
    if refusal.retry_after:
        body += framed(3, _retry_info(refusal.retry_after))
    return body


def success(signal: str, rejected: int, warning: str, media: bytes) -> bytes:
    """An Export…ServiceResponse. A plain success leaves ``partial_success`` unset, which is the empty message."""
    text = warning[:_TEXT_LIMIT]
    if media == JSON:
        # A number of 64 bits is a string in protobuf's JSON.
        told = {_REJECTED[signal]: str(rejected), "errorMessage": text} if rejected or text else None
        return msgspec.json.encode({"partialSuccess": told} if told else {})
    if not rejected and not text:
        return b""
    number = b"\x08" + digits(rejected) if rejected else b""
    return framed(1, number + (framed(2, text.encode()) if text else b""))


def _retry_info(seconds: int) -> bytes:
    """A ``google.protobuf.Any`` that holds a ``google.rpc.RetryInfo``."""
    info = framed(1, b"\x08" + digits(seconds))
    return framed(1, b"type.googleapis.com/google.rpc.RetryInfo") + framed(2, info)
