"""Reads a JSON array of objects as it arrives, one object at a time, so that memory does not grow with the body.

Ray's bodies have up to 1,000 events; a failing job's events carry tracebacks and reach many megabytes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from misstep.core.errors import InputError

EVENT_LIMIT = 2 * 1024 * 1024
"""Characters of one object. A longer one is passed over and counted: refusing it would make Ray send it for ever."""

_SPACE = re.compile(r"[ \t\r\n]*")
_MARKS = re.compile(r'["\\{}\[\]]')
_INCOMPLETE_WITHIN = 16
"""A literal, number or escape that the end of a chunk cut is at most so long."""

_START, _FIRST, _VALUE, _COMMA, _END = range(5)


class Splitter:
    """Feed it the body in pieces, then `finish`.

    A body that is one object counts as an array of one.

    Attributes:
        oversized: objects that were passed over because they were longer than `EVENT_LIMIT`.
    """

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self.oversized = 0
        self._limit = limit
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._state = _START
        self._need = 1
        self._single = False
        self._skip: _Skip | None = None

    def feed(self, data: bytes, last: bool = False) -> Iterator[dict[str, Any]]:
        """Objects that are complete with this piece.

        Raises:
            InputError: this is not a JSON array of objects.
        """
        try:
            text = self._decode(data, last)
        except UnicodeDecodeError as error:
            raise InputError(f"the body is not UTF-8 ({error.reason})") from error
        self._text = self._text + text if self._text else text
        at = 0
        try:
            while True:
                at = _SPACE.match(self._text, at).end()  # type: ignore[union-attr]
                if at >= len(self._text):
                    break
                if self._skip is not None:
                    end = self._skip.end(self._text, at)
                    if end < 0:
                        at = len(self._text)
                        break
                    self._skip, self._state, at = None, self._after_value(), end
                    continue
                if self._state in (_FIRST, _VALUE, _START) and self._text[at] == "{":
                    self._single = self._single or self._state == _START
                    value, end = self._object(at)
                    if end < 0:
                        break
                    if end == at:
                        continue
                    self._state, at = self._after_value(), end
                    if value is not None:
                        yield value
                else:
                    self._punctuation(self._text[at])
                    at += 1
        finally:
            self._text = self._text[at:]

    def finish(self) -> Iterator[dict[str, Any]]:
        """What the end completes.

        Raises:
            InputError: the body ended early.
        """
        self._need = 1
        yield from self.feed(b"", last=True)
        if self._state != _END:
            raise InputError("the body ends before its JSON does")

    def _after_value(self) -> int:
        return _END if self._single else _COMMA

    def _punctuation(self, mark: str) -> None:
        if self._state == _START and mark == "[":
            self._state = _FIRST
        elif self._state == _COMMA and mark == ",":
            self._state = _VALUE
        elif self._state in (_FIRST, _COMMA) and mark == "]":
            self._state = _END
        else:
            raise InputError(f"not a JSON array of objects: unexpected {mark!r}")

    def _object(self, at: int) -> tuple[dict[str, Any] | None, int]:
        """(object, index after it); the index is -1 until there is more to read, and `at` when it is to be skipped."""
        held = len(self._text) - at
        if held < self._need:
            return None, -1
        try:
            value, end = self._scan(self._text, at)
        except json.JSONDecodeError as error:
            cut = (
                error.msg.startswith("Unterminated string")
                or error.pos >= len(self._text) - _INCOMPLETE_WITHIN
            )
            if not cut:
                raise InputError(f"malformed JSON: {error.msg}") from error
            if held > self._limit:
                self.oversized += 1
                self._skip, self._need = _Skip(), 1
                return None, at
            self._need = 2 * held  # a long object must not be scanned again with each piece
            return None, -1
        except (ValueError, RecursionError) as error:
            raise InputError(f"JSON that is not sane: {error}") from error
        self._need = 1
        if end - at > self._limit:
            self.oversized += 1
            return None, end
        return value, end


class _Skip:
    """Finds the end of an object without keeping it."""

    def __init__(self) -> None:
        self._depth = 0
        self._string = False
        self._escaped = False

    def end(self, text: str, at: int) -> int:
        """Index after the object's closing brace, or -1 when it goes on."""
        if self._escaped and at < len(text):
            self._escaped, at = False, at + 1
        while True:
            found = _MARKS.search(text, at)
            if found is None:
                return -1
            mark, at = found.group(), found.end()
            if self._string:
                if mark == "\\":
                    if at >= len(text):
                        self._escaped = True
                        return -1
                    at += 1
                elif mark == '"':
                    self._string = False
            elif mark == '"':
                self._string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at
