"""The times at which an expression is evaluated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from misstep.store.promql.labels import I64


class Steps(NamedTuple):
    """`number` times, `step` apart; all in nanoseconds.

    Attributes:
        step: 0 where all times are the same.
    """

    start: int
    step: int
    number: int

    @property
    def end(self) -> int:
        """The last one."""
        return self.start + self.step * (self.number - 1)

    def times(self) -> I64:
        """All of them, shape (number,)."""
        return self.start + np.arange(self.number, dtype=np.int64) * self.step

    def shifted(self, by: int) -> Steps:
        """Later by so much."""
        return self._replace(start=self.start + by)

    def fixed(self, at: int) -> Steps:
        """As many steps at one and the same time."""
        return Steps(at, 0, self.number)


def seconds(times: I64) -> NDArray[np.float64]:
    """Unix seconds of Unix nanoseconds: the nearest float to the microsecond, so that milliseconds read as written."""
    return (times // 1000) / 1e6
