"""OTLP log records and requests as protobuf bytes, without an SDK.

Field numbers: opentelemetry/proto/{common,resource,logs,metrics}/v1 and collector/{logs,metrics}/v1,
release 1.3. A `record` here is framed for its place: tag, length, message; so records concatenate into the
message that holds them. Metrics are in `series`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

Value = str | int | float | bool
"""What an attribute may hold on our wire."""

_FIXED64 = struct.Struct("<Q").pack
_DOUBLE = struct.Struct("<d").pack
_RECORD_HEAD = struct.Struct(
    "<BQBQBB"
).pack  # time_unix_nano = 1, observed_time_unix_nano = 11, severity_number = 2
_SMALL = [bytes((n,)) for n in range(128)]
_KEYS: dict[str, bytes] = {}
_KEYS_LIMIT = 4096


def varint(number: int) -> bytes:
    """An unsigned base-128 integer; negative ones take the ten bytes of their two's complement."""
    if 0 <= number < 128:
        return _SMALL[number]
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 127:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def framed(tag: int, message: bytes) -> bytes:
    """A length-delimited field; `tag` is the field's number << 3 | 2, below 128."""
    return _SMALL[tag] + varint(len(message)) + message


def utf8(text: str) -> bytes:
    """Text as protobuf wants it: valid UTF-8, so bytes that a decoder let through as surrogates become ``?``."""
    return text.encode("utf-8", "replace")


def any_value(value: Value) -> bytes:
    """An AnyValue message: string 1, bool 2, int 3, double 4."""
    if isinstance(value, str):
        return framed(0x0A, utf8(value))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    return b"\x21" + _DOUBLE(value)


def attribute(tag: int, key: str, value: Value) -> bytes:
    """A KeyValue, framed with the tag of its holder's field (log record 0x32, data point 0x3a, resource 0x0a)."""
    name = _KEYS.get(key)
    if name is None:
        name = framed(0x0A, utf8(key))
        if len(_KEYS) < _KEYS_LIMIT:  # keys from outside (labels of a scrape) must not grow this for ever
            _KEYS[key] = name
    held = any_value(value)
    pair = name + b"\x12" + varint(len(held)) + held
    return _SMALL[tag] + varint(len(pair)) + pair


def resource(attributes: Mapping[str, Value]) -> bytes:
    """A Resource message."""
    return b"".join([attribute(0x0A, key, value) for key, value in attributes.items()])


def record_attributes(attributes: Mapping[str, Value]) -> bytes:
    """Attributes of a log record, each framed; what many records share is encoded once."""
    return b"".join([attribute(0x32, key, value) for key, value in attributes.items()])


def log_record(
    time: int,
    observed: int,
    severity: int,
    body: bytes,
    attributes: bytes,
    event: str = "",
) -> bytes:
    """A LogRecord, framed as ScopeLogs.log_records.

    Args:
        time: Unix nanoseconds of when it happened.
        observed: Unix nanoseconds of when we saw it.
        severity: OTLP severity number, 0 to 24 (9 info, 13 warning, 17 error, 21 fatal).
        body: valid UTF-8.
        attributes: from `record_attributes`.
        event: event_name; empty for a plain log line.
    """
    parts = [_RECORD_HEAD(0x09, time, 0x59, observed, 0x10, severity)]
    if body:
        held = b"\x0a" + varint(len(body)) + body
        parts.append(b"\x2a" + varint(len(held)) + held)
    parts.append(attributes)
    if event:
        parts.append(framed(0x62, utf8(event)))
    message = b"".join(parts)
    return b"\x12" + varint(len(message)) + message


class Envelope:
    """Wraps concatenated records into export requests of one resource and scope.

    Args:
        attributes: of the resource.
        scope: name of the instrumentation scope.
        version: of the scope.
    """

    def __init__(self, attributes: Mapping[str, Value], scope: str, version: str) -> None:
        self._resource = framed(0x0A, resource(attributes))
        self._scope = framed(0x0A, framed(0x0A, utf8(scope)) + framed(0x12, utf8(version)))

    def request(self, records: bytes) -> bytes:
        """An ExportLogsServiceRequest from framed log records, or an ExportMetricsServiceRequest from framed metrics.

        The two have the same shape: resource_{logs,metrics} = 1 {resource = 1, scope_{logs,metrics} = 2 {scope = 1, records = 2}}.
        """
        scoped = self._scope + records
        held = self._resource + b"\x12" + varint(len(scoped)) + scoped
        return b"\x0a" + varint(len(held)) + held


def rejected(response: bytes) -> tuple[int, str]:
    """How many records an Export{Logs,Metrics}ServiceResponse says were refused, and why.

    partial_success = 1 {rejected_* = 1 varint, error_message = 2 string}. What is not such a message counts as
    an empty one: the status code alone says whether the request was taken.
    """
    for number, kind, held in fields(response):
        if number == 1 and kind == 2 and isinstance(held, bytes):
            count, text = 0, ""
            for inner, _, value in fields(held):
                if inner == 1 and isinstance(value, int):
                    count = value
                elif inner == 2 and isinstance(value, bytes):
                    text = value.decode("utf-8", "replace")
            return count, text
    return 0, ""


def fields(message: bytes) -> list[tuple[int, int, int | bytes]]:
    """The top level of a protobuf message as (field number, wire type, value); stops at what is malformed."""
    found: list[tuple[int, int, int | bytes]] = []
    at, end = 0, len(message)
    while at < end:
        tag, at = read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, at = read_varint(message, at)
        elif kind == 2:
            size, at = read_varint(message, at)
            if size > end - at:
                break
            value, at = message[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        else:
            break
        if number == 0 or at > end:
            break
        found.append((number, kind, value))
    return found


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number and where the next thing begins; that is past the end where the number is cut short."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 128:
            return number, at
        shift += 7
    return 0, len(message) + 1
