"""OTLP in JSON, as protobuf: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.

Unlike protobuf's own JSON, ids of traces and spans are hexadecimal. Numbers of 64 bits may be strings or numbers,
unknown fields are left out. The only path on which Python walks over items.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from google.protobuf import json_format

from misstep.core.errors import InputError
from misstep.store import otlp

_IDS = ("traceId", "spanId", "parentSpanId")
_DEPTH = 100


def to_protobuf(signal: str, text: bytes) -> bytes:
    """A request of the signal.

    Raises:
        InputError: it is not one; says where.
    """
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise InputError(f"a JSON object is expected, not {type(document).__name__}")
        _translate_ids(document)
        message = json_format.ParseDict(
            document, otlp.message_of(signal), ignore_unknown_fields=True, max_recursion_depth=_DEPTH
        )
        return bytes(message.SerializeToString())
    except (json_format.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"not OTLP in JSON: {str(error)[:300]}") from error
    except RecursionError:
        raise InputError("not OTLP in JSON: nested too deeply") from None


def _translate_ids(document: Any) -> None:
    """Hexadecimal ids to base64, in place; an attribute of that name is a value, not a key, and stays."""
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            for name in _IDS:
                if node.get(name):
                    node[name] = _base64(name, node[name])
            waiting += node.values()


def _base64(name: str, text: Any) -> str:
    try:
        return base64.b64encode(bytes.fromhex(text)).decode()
    except (TypeError, ValueError, binascii.Error):
        raise InputError(f"{name} must be hexadecimal, not {str(text)[:40]!r}") from None
