"""Which collector a journal position belongs to.

Several collectors may fill one lake. Each has a number, its *origin*, in the upper bits of every position that it gives
out, so that positions never collide, a position alone says who gave it, and no table needs a column more. Within an
origin positions are in journal order; between origins they say nothing, which is no loss: a session belongs
to one collector. A collector without a shared catalog is origin 0, and its positions are 1, 2, 3, …
"""

from __future__ import annotations

from typing import NamedTuple

BITS = 48
"""Positions that one collector can give out: 2^48 requests, at 10,000 a second nine hundred years."""

LIMIT = 1 << (63 - BITS)
"""Origins that fit above them in a signed 64-bit integer: 32,768 lives of a collector's folder."""


class Origin(NamedTuple):
    """The positions of one collector: base < seq < end."""

    number: int = 0

    @property
    def base(self) -> int:
        """The position before the first."""
        return self.number << BITS

    @property
    def end(self) -> int:
        """One past the last."""
        return (self.number + 1) << BITS

    def holds(self, column: str = "seq") -> str:
        """The SQL condition that a position is one of these."""
        return f"({column} > {self.base} AND {column} < {self.end})"


ALONE = Origin(0)
"""Of a collector that shares its lake with none."""

NOBODY = Origin(LIMIT - 1)
"""Of a process that only reads: no position is its own."""


def of(seq: int) -> Origin:
    """Whose position this is."""
    return Origin(seq >> BITS)
