"""From protobuf's JSON, as Ray's aggregator prints it, to our body: camelCase keys, hex ids, no secrets, bounded.

Ray prints `bytes` fields as base64 and its State API the same ids as hex; with
`PRESERVE_PROTO_FIELD_NAME` keys come in snake_case. Field names: src/ray/protobuf/public/*.proto of Ray 2.60.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from calendar import timegm
from typing import Any

from misstep.agent.ray.redaction import HIDDEN, command, is_secret, runtime_environment, url

TEXT_LIMIT = 32 * 1024
"""Characters of one string; an error can carry megabytes, and its last lines say most."""

IDS = frozenset((
    "eventId", "taskId", "jobId", "parentTaskId", "parentId", "placementGroupId", "actorId", "workerId",
    "nodeId", "driverNodeId", "ownerId", "componentId", "creatorJobId", "creatorActorId", "softTargetNodeId",
))  # fmt: skip
"""Fields of type `bytes`."""

MAPS = frozenset((
    "requiredResources", "refIds", "labelSelector", "labels", "metadata", "resources", "customResources",
    "unitResources", "customFields", "labelConstraints",
))  # fmt: skip
"""Fields of type `map`: their keys are the user's and stay as they are."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CAMEL = re.compile(r"_([a-z0-9])")
_NAMES: dict[str, str] = {}
_PREFIX: dict[str, int] = {}


def camel(key: str) -> str:
    """``task_id`` → ``taskId``; a camelCase key stays."""
    known = _NAMES.get(key)
    if known is None:
        known = _CAMEL.sub(lambda match: match.group(1).upper(), key)
        if len(_NAMES) < 1024:
            _NAMES[key] = known
    return known


def identifier(value: object) -> str:
    """The hex of an id that came as base64; what is neither stays as text."""
    if not isinstance(value, str) or not value:
        return ""
    try:
        return a2b_base64(value, strict_mode=True).hex()
    except ValueError:
        return value


def nanoseconds(text: object) -> int:
    """Unix nanoseconds of an RFC 3339 time in UTC with up to nine decimals; 0 where it is not one."""
    if not isinstance(text, str) or len(text) < 20:
        return 0
    minute, seconds = text[:16], text[17:].rstrip("Z")
    start = _PREFIX.get(minute)
    try:
        if start is None:
            start = timegm((
                int(text[:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), 0,
            )) * 1_000_000_000  # fmt: skip
            if len(_PREFIX) > 256:
                _PREFIX.clear()
            _PREFIX[minute] = start
        whole, _, fraction = seconds.partition(".")
        return start + int(whole) * 1_000_000_000 + int((fraction + "000000000")[:9])
    except ValueError:
        return 0


def text(value: str) -> str:
    """A string without terminal control sequences and not longer than `TEXT_LIMIT`: a short head and a long tail."""
    if "\x1b" in value:
        value = _ANSI.sub("", value)
    if len(value) > TEXT_LIMIT:
        head, tail = TEXT_LIMIT // 4, TEXT_LIMIT - TEXT_LIMIT // 4
        value = f"{value[:head]}\n[… {len(value) - TEXT_LIMIT} characters left out …]\n{value[-tail:]}"
    return value


def body(message: dict[str, Any]) -> dict[str, Any]:
    """The typed inner object of an event in our form; see the module."""
    held: dict[str, Any] = {}
    for name, value in message.items():
        key = camel(name) if "_" in name else name
        if type(value) is str:
            held[key] = _string(key, value)
        elif type(value) is dict:
            held[key] = _map(key, value) if _is_map(key, value) else body(value)
        elif type(value) is list:
            held[key] = [
                body(one) if type(one) is dict else text(one) if type(one) is str else one for one in value
            ]
        else:
            held[key] = value
    held.pop("serializedException", None)  # a pickle: of no use here, and not to be opened anywhere
    return held


def _string(key: str, value: str) -> str:
    if key in IDS:
        return identifier(value)
    if key == "serializedRuntimeEnv":
        return text(runtime_environment(value))
    if key == "entrypoint":
        return text(command(value))
    return text(value)


def _is_map(key: str, value: dict[str, Any]) -> bool:
    if key not in MAPS:
        return False
    # FallbackOption.label_selector is a message, BundleSpec.label_selector a map.
    return not (key == "labelSelector" and any(isinstance(one, list) for one in value.values()))


def _map(key: str, value: dict[str, Any]) -> dict[str, Any]:
    if key == "refIds":
        return {name: identifier(one) for name, one in value.items()}
    if key in ("metadata", "customFields"):
        return {
            name: HIDDEN if is_secret(name) else text(url(one)) if isinstance(one, str) else one
            for name, one in value.items()
        }
    return value
