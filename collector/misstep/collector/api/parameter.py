"""Query parameters: declared once, from which both the parser and the OpenAPI description come."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from misstep.collector.refusal import Refusal
from misstep.core.clock import SECOND

LIMIT_DEFAULT = 1000
LIMIT_MOST = 10_000
_NANOSECOND_DIGITS = 16
T = TypeVar("T")


class Parameter(NamedTuple):
    """One query parameter.

    Attributes:
        name: as written in the URL.
        kind: ``text``, ``texts`` (may be repeated), ``time``, ``number`` or ``flag``.
        meaning: for the description.
        choices: the values it may take, if only these.
        default: when it is left out.
    """

    name: str
    kind: str
    meaning: str
    choices: tuple[str, ...] = ()
    default: Any = None


SESSION = Parameter("session", "text", "only this session (site/kind/name/started)")
AT = Parameter("at", "time", "as of this time: what was known then; now if left out")
SINCE = Parameter("since", "time", "not before this time, by the sender's clock")
UNTIL = Parameter("until", "time", "before this time, by the sender's clock")
LIMIT = Parameter("limit", "number", f"entries of a page, at most {LIMIT_MOST}", default=LIMIT_DEFAULT)
CURSOR = Parameter("cursor", "text", "the cursor of the page before")


def parse(declared: Sequence[Parameter], given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The value of every declared parameter.

    Raises:
        Refusal: 400, with what is accepted.
    """
    known = {p.name: p for p in declared}
    values = {p.name: ([] if p.kind == "texts" else p.default) for p in declared}
    for name, text in given:
        parameter = known.get(name)
        if parameter is None:
            raise _wrong(_unknown(name, list(known)))
        value = _value(parameter, text)
        if parameter.kind == "texts":
            values[name].append(value)
        else:
            values[name] = value
    return values


def parse_time(text: str) -> int:
    """Unix nanoseconds (16 digits or more), Unix seconds, or RFC 3339; without a zone it is UTC.

    Raises:
        ValueError: it is none of these.
    """
    if text.isdigit() and len(text) >= _NANOSECOND_DIGITS:
        return int(text)
    try:
        whole, _, fraction = text.partition(".")
        if whole.isdigit() and (not fraction or fraction.isdigit()):
            return int(whole) * SECOND + int((fraction + "0" * 9)[:9])
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"not a time: {text!r}; write Unix seconds, nanoseconds, or 2026-01-31T14:02:31Z"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6) * 1000


def page(
    items: Sequence[T], key: Callable[[T], tuple[Any, ...]], cursor: str | None, limit: int
) -> tuple[list[T], str | None]:
    """One page of a list, and the cursor of the next; None at the end.

    Args:
        items: the whole list, in any order.
        key: what it is ordered by; unique, of numbers and strings.
        cursor: of the page before.
        limit: entries.

    Raises:
        Refusal: 400, the cursor is not one of ours.
    """
    ordered = sorted(items, key=key)
    if cursor:
        after = decode_cursor(cursor)
        try:
            ordered = [item for item in ordered if key(item) > after]
        except TypeError:
            raise _wrong("the cursor belongs to another list") from None
    rest = ordered[:limit]
    more = len(ordered) > limit
    return rest, encode_cursor(key(rest[-1])) if more and rest else None


def encode_cursor(key: tuple[Any, ...]) -> str:
    """A position in a list as opaque text."""
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[Any, ...]:
    """What `encode_cursor` was given.

    Raises:
        Refusal: 400.
    """
    try:
        decoded = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        decoded = None
    if not isinstance(decoded, list):
        raise _wrong("the cursor is not one that this list gave")
    return tuple(decoded)


def _value(parameter: Parameter, text: str) -> Any:
    if parameter.choices and text not in parameter.choices:
        raise _wrong(f"{parameter.name}={text[:50]!r} is not one of {', '.join(parameter.choices)}")
    if parameter.kind == "time":
        try:
            return parse_time(text)
        except (ValueError, OverflowError) as error:
            raise _wrong(f"{parameter.name}: {error}") from None
    if parameter.kind == "number":
        if not text.isdigit() or not 1 <= int(text[:12]) <= LIMIT_MOST:
            raise _wrong(f"{parameter.name}={text[:50]!r} is not a whole number from 1 to {LIMIT_MOST}")
        return int(text)
    if parameter.kind == "flag":
        if text not in ("0", "1", "false", "true"):
            raise _wrong(f"{parameter.name}={text[:50]!r} is not true or false")
        return text in ("1", "true")
    return text


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return f"unknown parameter {name[:50]!r}; {hint}"


def _wrong(message: str) -> Refusal:
    return Refusal(400, "parameter", message)
