"""How a payload stands in the journal: compressed and written as its sender chose, or packed by us.

An encoding is empty, ``gzip``, ``zstd`` or ``snappy``, and ``json`` may follow behind a plus sign: ``gzip+json``.
"""

from __future__ import annotations

import sys
import zlib

import cramjam

from misstep.core.errors import InputError
from misstep.store import otlp_json

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DAMAGED", "JSON", "joined", "protobuf", "zstd"]

JSON = "json"
_WORTH_PACKING = 4096
"""Bytes; a smaller payload fits into one page of the journal anyway."""

DAMAGED: tuple[type[Exception], ...] = (zlib.error, zstd.ZstdError, cramjam.DecompressionError, InputError)
"""What `protobuf` raises for a payload that is not what its encoding says."""


def joined(compression: str, *, json: bool) -> str:
    """The name of an encoding."""
    return "+".join(part for part in (compression, JSON if json else "") if part)


def packed(payload: bytes, encoding: str) -> tuple[bytes, str]:
    """A payload for the journal, and its encoding: what came uncompressed is packed, which costs less than writing it."""
    if len(payload) < _WORTH_PACKING or encoding not in ("", JSON):
        return payload, encoding
    return bytes(cramjam.snappy.compress_raw(payload)), joined("snappy", json=encoding == JSON)


def protobuf(signal: str, payload: bytes, encoding: str) -> bytes:
    """The protobuf message of a payload of the journal; its size was checked when it came.

    Raises:
        Exception: one of `DAMAGED`.
    """
    compression, _, written = encoding.rpartition("+")
    if written != JSON:
        return _decompress(payload, encoding)
    return otlp_json.to_protobuf(signal, _decompress(payload, compression))


def _decompress(payload: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return zlib.decompress(payload, wbits=31)
    if compression == "zstd":
        return bytes(zstd.decompress(payload))
    if compression == "snappy":
        return bytes(cramjam.snappy.decompress_raw(payload))
    return payload
