"""A place in the words of a query, for the parsers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from misstep.core.errors import InputError
from misstep.store.logql.tokens import Token, error, tokens

DEPTH_LIMIT = 40
"""Parentheses within parentheses."""


class Cursor:
    """Reads words one by one."""

    def __init__(self, query: str) -> None:
        """Split a query into words.

        Raises:
            InputError: it is not made of them.
        """
        self._tokens = tokens(query)
        self._next = 0
        self._depth = 0

    @property
    def token(self) -> Token:
        """The word that comes next."""
        return self._tokens[self._next]

    def after(self) -> Token:
        """The word after the next one."""
        return self._tokens[min(self._next + 1, len(self._tokens) - 1)]

    def take(self) -> Token:
        """The next word, and go on."""
        found = self.token
        self._next += found.kind != "end"
        return found

    def sees(self, *signs: str) -> bool:
        """Whether one of these signs or words comes next."""
        return self.token.kind in ("sign", "word") and self.token.text in signs

    def accept(self, *signs: str) -> str:
        """Take one of these if it comes next; else the empty text."""
        return self.take().text if self.sees(*signs) else ""

    def expect(self, sign: str) -> None:
        """Take exactly this.

        Raises:
            InputError: something else comes.
        """
        if not self.accept(sign):
            raise self.unexpected(f"{sign!r}")

    def word(self, what: str) -> str:
        """Take a word.

        Raises:
            InputError: something else comes.
        """
        if self.token.kind != "word":
            raise self.unexpected(what)
        return self.take().text

    def text(self, what: str = "a quoted text") -> str:
        """Take a quoted text.

        Raises:
            InputError: something else comes.
        """
        if self.token.kind != "text":
            raise self.unexpected(what)
        return self.take().text

    def label(self) -> str:
        """Take a label's name; dots become underscores, as in every name of ours.

        Raises:
            InputError: something else comes.
        """
        return self.word("the name of a label").replace(".", "_").replace(":", "_")

    def unexpected(self, wanted: str) -> InputError:
        """What to raise where something else was wanted."""
        found = self.token
        seen = "the end" if found.kind == "end" else repr(found.text[:40])
        return error(f"{wanted} is expected here, not {seen}", found.place)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One level further down.

        Raises:
            InputError: too many.
        """
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise error(f"more than {DEPTH_LIMIT} levels of parentheses", self.token.place)
        yield
        self._depth -= 1
