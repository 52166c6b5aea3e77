"""Bodies: read up to a limit, out of a budget that all requests share, and decompressed up to the same limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import cramjam

from misstep.collector.refusal import Refusal
from misstep.store.encoding import zstd

Receive = Callable[[], Awaitable[Any]]

READ_SECONDS = 30.0
"""A sender that takes longer for one body is cut off, so that slow ones cannot hold the budget."""

RATIO_LIMIT = 400
RATIO_FREE = 4 * 1024 * 1024
"""Beyond `RATIO_FREE` bytes a body may not be more than `RATIO_LIMIT` times its compressed size: telemetry
compresses 5 to 60 times, deflate's bombs about 1,030 times."""

_MEMBERS_LIMIT = 64

ENCODINGS = {
    b"": "", b"identity": "", b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate", b"zstd": "zstd",
}  # fmt: skip
"""What OTLP over HTTP may be compressed with; remote write knows ``snappy`` alone."""

_WINDOW_LOG = 27
"""zstd's own limit: 128 MiB of window. A frame may ask a decoder for gigabytes."""


class Budget:
    """Bytes of bodies that may be in memory at once, before the store has them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserve.

        Raises:
            Refusal: 429, there is no room now.
        """
        if self.used + size > self.limit:
            raise Refusal(
                429, "overload", "too many bodies at once; send again later", retry_after=1, close=True
            )
        self.used += size

    def give(self, size: int) -> None:
        """Hand back what was taken."""
        self.used -= size


async def read(receive: Receive, declared: bytes | None, limit: int, budget: Budget) -> bytes:
    """The body as sent. Its size stays taken from `budget`; the caller hands it back.

    Args:
        receive: ASGI's.
        declared: the Content-Length header.
        limit: bytes.
        budget: shared by all requests.

    Raises:
        Refusal: 413, 408 or 429; nothing stays taken then.
    """
    if declared is not None and (not declared.isdigit() or int(declared) > limit):
        raise too_large(limit, close=True)
    message = await receive()
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
        budget.take(len(body))
        return body
    taken = 0
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(READ_SECONDS):
            while True:
                part = message.get("body", b"")
                budget.take(len(part))
                taken += len(part)
                if taken > limit:
                    raise too_large(limit, close=True)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "malformed", "the connection ended inside the body", close=True)
    except TimeoutError:
        budget.give(taken)
        raise Refusal(408, "timeout", f"the body took longer than {READ_SECONDS:.0f} s", close=True) from None
    except BaseException:
        budget.give(taken)
        raise


def expand(body: bytes, encoding: str, limit: int) -> tuple[bytes, bytes, str]:
    """Decompress, never beyond `limit` bytes.

    Args:
        body: as sent.
        encoding: a value of `ENCODINGS`, or ``snappy``.
        limit: bytes after decompression.

    Returns:
        The decompressed body; then what to keep, and its encoding: anything but one plain member of gzip or frame
        of zstd, or a block of snappy, is kept decompressed.

    Raises:
        Refusal: 413 over the limit, 400 for damaged data.
    """
    if not encoding:
        return body, body, ""
    by_ratio = max(RATIO_FREE, RATIO_LIMIT * len(body))
    room = min(limit, by_ratio)
    open_ = _OPENERS[encoding]
    try:
        plain, rest = open_(body, room)
        if not rest:
            return (plain, plain, "") if encoding == "deflate" else (plain, body, encoding)
        parts = [plain]
        while rest and encoding != "deflate" and len(parts) < _MEMBERS_LIMIT:
            room -= len(parts[-1])
            plain, rest = open_(rest, room)
            parts.append(plain)
    except (zlib.error, zstd.ZstdError, cramjam.DecompressionError) as error:
        raise Refusal(400, "compression", f"the {encoding} body is damaged: {error}") from None
    except _Full:
        if by_ratio < limit:
            raise Refusal(
                413,
                "ratio",
                f"more than {RATIO_LIMIT} times larger than sent; send smaller or uncompressed requests",
            ) from None
        raise too_large(limit) from None
    if rest:
        raise Refusal(400, "compression", f"the {encoding} body is followed by other data")
    whole = b"".join(parts)
    return whole, whole, ""


def too_large(limit: int, *, close: bool = False) -> Refusal:
    """The 413 for a body over the limit."""
    return Refusal(
        413, "too_large", f"more than {limit} bytes after decompression; send smaller requests", close=close
    )


class _Full(Exception):
    pass


def _gzip(data: bytes, room: int) -> tuple[bytes, bytes]:
    """One member and what follows it."""
    return _inflate(data, room, 31)


def _deflate(data: bytes, room: int) -> tuple[bytes, bytes]:
    """ "deflate" is zlib's format (RFC 9110, 8.4.1.2); some senders leave its two header bytes out."""
    raw = len(data) < 2 or data[0] & 0x0F != 8 or (data[0] << 8 | data[1]) % 31
    return _inflate(data, room, -15 if raw else 15)


def _inflate(data: bytes, room: int, wbits: int) -> tuple[bytes, bytes]:
    stream = zlib.decompressobj(wbits)
    plain = stream.decompress(data, room + 1)
    if len(plain) > room:
        raise _Full
    if not stream.eof:
        raise zlib.error("it ends too early")
    return plain, stream.unused_data


def _zstd(data: bytes, room: int) -> tuple[bytes, bytes]:
    """One frame and what follows it."""
    stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    plain = bytes(stream.decompress(data, room + 1))
    if len(plain) > room:
        raise _Full
    if not stream.eof:
        raise zstd.ZstdError("it ends too early")
    return plain, stream.unused_data


def _snappy(data: bytes, room: int) -> tuple[bytes, bytes]:
    """A block, which says at its head how long it will be."""
    if cramjam.snappy.decompress_raw_len(data) > room:
        raise _Full
    return bytes(cramjam.snappy.decompress_raw(data)), b""


_OPENERS = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd, "snappy": _snappy}
