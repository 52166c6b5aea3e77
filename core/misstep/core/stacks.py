"""Stacks of many ranks as one: a prefix tree whose branches say which ranks stand there. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

_LIBRARY = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ", "<string>")


class Frame(NamedTuple):
    """One call; stacks run from the outermost to the innermost."""

    function: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """``train.py:38``."""
        return f"{self.file.rpartition('/')[2]}:{self.line}"

    @property
    def own(self) -> bool:
        """Whether it is the user's code and neither Python's nor a package's."""
        return not any(part in self.file for part in _LIBRARY)


class Branch(NamedTuple):
    """A frame, the ranks that stand in it or below it, and where they go on."""

    frame: Frame
    ranks: tuple[int, ...]
    below: tuple[Branch, ...]


Stack = Sequence[Frame]


def frames(held: Iterable[object]) -> list[Frame]:
    """Frames as they travel, ``[function, file, line]``; what is not one is left out."""
    found = []
    for one in held:
        if isinstance(one, list) and len(one) == 3 and isinstance(one[2], int):
            found.append(Frame(str(one[0]), str(one[1]), one[2]))
    return found


def merge(stacks: Mapping[int, Stack], depth: int = 0) -> tuple[Branch, ...]:
    """The prefix tree of the ranks' stacks, the branch of most ranks first."""
    branches: dict[Frame, dict[int, Stack]] = {}
    for rank, stack in sorted(stacks.items()):
        if len(stack) > depth:
            branches.setdefault(stack[depth], {})[rank] = stack
    found = [Branch(frame, tuple(held), merge(held, depth + 1)) for frame, held in branches.items()]
    return tuple(sorted(found, key=lambda branch: (-len(branch.ranks), branch.ranks)))


def numbers(ranks: Iterable[int]) -> str:
    """``0-6, 9``."""
    held = sorted(set(ranks))
    parts: list[str] = []
    start = 0
    for place, rank in enumerate(held):
        if place + 1 == len(held) or held[place + 1] != rank + 1:
            first = held[start]
            parts.append(str(first) if first == rank else f"{first}, {rank}" if rank == first + 1 else f"{first}-{rank}")  # fmt: skip
            start = place + 1
    return ", ".join(parts)


def called(ranks: Iterable[int]) -> str:
    """``rank 3`` or ``ranks 0-2``."""
    held = sorted(set(ranks))
    return f"rank{'s' if len(held) != 1 else ''} {numbers(held)}"


def standing(stack: Stack) -> str:
    """Where a rank stands: the innermost call, and the user's own function that it came from: ``all_reduce ← train``."""
    if not stack:
        return "no Python frame"
    inner = stack[-1]
    own = next((frame for frame in reversed(stack) if frame.own), None)
    if own is None or own == inner:
        return f"{inner.function} ({inner.place})"
    return f"{inner.function} ← {own.function} ({own.place})"


def summary(stacks: Mapping[int, Stack]) -> str:
    """``7 of 8 in all_reduce ← backward (train.py:31); rank 3 in load_batch (data.py:12)``, most ranks first."""
    places: dict[str, list[int]] = {}
    for rank, stack in sorted(stacks.items()):
        places.setdefault(standing(stack), []).append(rank)
    ordered = sorted(places.items(), key=lambda item: (-len(item[1]), item[1]))
    parts = []
    for place, ranks in ordered:
        who = f"{len(ranks)} of {len(stacks)}" if len(ranks) > 1 else called(ranks)
        parts.append(f"{who} in {place}")
    return "; ".join(parts)


def steps(told: Mapping[int, tuple[str, str]]) -> str:
    """``ranks 0-2 in step 12 (backward); rank 3 in step 11 (data)``; empty where no rank tells.

    Args:
        told: step and phase of each rank, either of which may be empty.
    """
    places: dict[str, list[int]] = {}
    for rank, (step, phase) in sorted(told.items()):
        place = f"step {step} ({phase})" if step and phase else f"step {step}" if step else phase
        if place:
            places.setdefault(place, []).append(rank)
    return "; ".join(f"{called(ranks)} in {place}" for place, ranks in sorted(places.items(), key=lambda item: (-len(item[1]), item[1])))  # fmt: skip


def lines(tree: Sequence[Branch], indent: str = "") -> list[str]:
    """The tree as text: one line for each stretch that the same ranks share, ranks where they part."""
    found: list[str] = []
    for branch in tree:
        stretch = [branch]
        while len(stretch[-1].below) == 1 and stretch[-1].below[0].ranks == branch.ranks:
            stretch.append(stretch[-1].below[0])
        found.append(f"{indent}{called(branch.ranks)}")
        found += [f"{indent}  {one.frame.function}  {one.frame.place}" for one in stretch]
        found += lines(stretch[-1].below, indent + "    ")
    return found
