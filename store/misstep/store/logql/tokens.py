"""The words of LogQL."""

from __future__ import annotations

import re
from typing import NamedTuple

from misstep.core.errors import InputError

LENGTH_LIMIT = 16_384
"""Characters of a query."""
TEXT_LIMIT = 4096
"""Characters of one string in it; also bounds each regular expression."""
_TOKENS_LIMIT = 2000

SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0,
    "y": 31536000.0,
}  # fmt: skip
BYTES = {
    "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15, "kib": 2.0**10, "mib": 2.0**20,
    "gib": 2.0**30, "tib": 2.0**40, "pib": 2.0**50,
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | \#[^\n]* )
    | (?P<text> "(?:[^"\\\n]|\\.)*" | `[^`]*` )
    | (?P<number> (?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)? (?P<unit> [a-zA-Zµ][a-zA-Zµ0-9.]* )? )
    | (?P<word> [a-zA-Z_][a-zA-Z0-9_:.]* )
    | (?P<sign> \|= | \|~ | \|> | != | !~ | !> | =~ | == | >= | <= | [{}()\[\],|=<>+\-*/%^] )
    """,
    re.VERBOSE,
)
_PART = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Zµ]+)")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


class Token(NamedTuple):
    """One word.

    Attributes:
        kind: ``text``, ``number``, ``duration``, ``bytes``, ``word``, ``sign`` or ``end``.
        text: of a string its content, of all else as written.
        value: of a number itself, of a duration seconds, of a size bytes.
        place: where it begins, from 0.
    """

    kind: str
    text: str
    value: float
    place: int


def tokens(query: str) -> list[Token]:
    """Split a query.

    Raises:
        InputError: something in it is no word of LogQL, or it is over a limit.
    """
    if len(query) > LENGTH_LIMIT:
        raise InputError(f"the query is longer than {LENGTH_LIMIT} characters")
    found: list[Token] = []
    place = 0
    while place < len(query):
        match = _TOKEN.match(query, place)
        if match is None:
            raise error(f"{query[place]!r} is not understood", place)
        kind, text = str(match.lastgroup), match.group()
        if kind == "number" or kind == "unit":
            found.append(_number(text, place))
        elif kind == "text":
            found.append(Token("text", _content(text, place), 0.0, place))
        elif kind != "space":
            found.append(Token(kind, text, 0.0, place))
        place = match.end()
        if len(found) > _TOKENS_LIMIT:
            raise InputError(f"the query has more than {_TOKENS_LIMIT} words")
    return [*found, Token("end", "", 0.0, len(query))]


def error(message: str, place: int) -> InputError:
    """As Loki says it."""
    return InputError(f"parse error at line 1, col {place + 1}: {message}")


def _number(text: str, place: int) -> Token:
    parts = _PART.findall(text)
    if not parts:
        return Token("number", text, float(text), place)
    if "".join(number + unit for number, unit in parts) == text:
        if all(unit in SECONDS for _, unit in parts):
            return Token("duration", text, sum(float(n) * SECONDS[unit] for n, unit in parts), place)
        if len(parts) == 1 and parts[0][1].lower() in BYTES:
            return Token("bytes", text, float(parts[0][0]) * BYTES[parts[0][1].lower()], place)
    try:
        return Token("number", text, float(text), place)  # 1e3
    except ValueError:
        raise error(f"{text[:40]!r} is neither number, duration nor size", place) from None


def _content(text: str, place: int) -> str:
    if len(text) > TEXT_LIMIT:
        raise error(f"this text is longer than {TEXT_LIMIT} characters", place)
    if text[0] == "`":
        return text[1:-1]

    def plain(match: re.Match[str]) -> str:
        hexadecimal = match[1] or match[2] or match[3]
        try:
            if hexadecimal or match[4]:
                code = int(hexadecimal, 16) if hexadecimal else int(match[4], 8)
                chr(code).encode()
                return chr(code)
        except (ValueError, OverflowError, UnicodeEncodeError):
            raise error(f"{match[0]!r} is no character", place) from None
        letter = match[5]
        if letter in _ESCAPES or letter in "\\\"'":
            return _ESCAPES.get(letter, letter)
        raise error(f"unknown escape {match[0]!r}; write a backslash twice, or use backticks", place)

    return _ESCAPE.sub(plain, text[1:-1])
