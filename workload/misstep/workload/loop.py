"""For loops that one writes oneself: blocks for steps and phases, or one call for each step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from misstep.workload.progress import CURRENT

PHASES = ("data", "forward", "backward", "optimizer", "checkpoint", "eval", "rollout", "weight_sync")
"""The phases that Misstep has words for; any other name is taken as it is."""

_Batch = TypeVar("_Batch")
_END = object()


class step:
    """One step of training: ``with workload.step(tokens=n) as step: …; step.loss = 0.7``.

    Args:
        number: as your loop counts; without it, one more than the last.
        tokens: that the step trains on.

    Attributes:
        tokens: may be set until the block ends.
        loss: the same; a number, or a tensor in the memory of the host. One on a GPU is not read.
    """

    __slots__ = ("loss", "number", "tokens")

    def __init__(self, number: int | None = None, *, tokens: int = 0) -> None:
        self.number, self.tokens = number, tokens
        self.loss: object = None

    def __enter__(self) -> Self:
        CURRENT.begin(self.number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        CURRENT.add(self.tokens, self.loss)
        CURRENT.end()


class phase:
    """A part of a step, or of the time between two: ``with workload.phase("checkpoint"): …``; one of `PHASES`.

    Within another it stands in its place until it ends.
    """

    __slots__ = ("_before", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._before = ""

    def __enter__(self) -> Self:
        self._before = CURRENT.enter(self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        CURRENT.enter(self._before)


def data(batches: Iterable[_Batch]) -> Iterator[_Batch]:
    """The batches, the wait for each told as phase ``data``."""
    held = iter(batches)
    while True:
        with phase("data"):
            batch = next(held, _END)
        if batch is _END:
            return
        yield batch  # type: ignore[misc]


def advance(number: int | None = None, *, tokens: int = 0, loss: object = None) -> None:
    """A step is over and the next begins, for loops without a block: called once in each.

    Args:
        number: of the step that is over, as your loop counts; without it, one more than the last.
        tokens: that it trained on.
        loss: as in `step`.
    """
    CURRENT.add(tokens, loss)
    CURRENT.end()
    CURRENT.begin(number)
