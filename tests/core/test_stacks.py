"""Stacks of many ranks, merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from misstep.core import stacks
from misstep.core.stacks import Branch, Frame

LIBRARY = "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
MAIN, STEP = Frame("main", "/job/train.py", 40), Frame("backward", "/job/train.py", 31)
REDUCE, LOAD = Frame("all_reduce", LIBRARY, 3252), Frame("load_batch", "/job/data.py", 12)
HANG = {rank: [MAIN, LOAD] if rank == 3 else [MAIN, STEP, REDUCE] for rank in range(8)}


def test_a_sentence() -> None:
    assert (
        stacks.summary(HANG)
        == "7 of 8 in all_reduce ← backward (train.py:31); rank 3 in load_batch (data.py:12)"
    )
    assert stacks.summary({0: []}) == "rank 0 in no Python frame"


def test_the_tree_in_lines() -> None:
    assert stacks.lines(stacks.merge(HANG)) == [
        "ranks 0-7",
        "  main  train.py:40",
        "    ranks 0-2, 4-7",
        "      backward  train.py:31",
        "      all_reduce  distributed_c10d.py:3252",
        "    rank 3",
        "      load_batch  data.py:12",
    ]


def test_numbers() -> None:
    assert [stacks.numbers(r) for r in ([], [3], [1, 2], [0, 1, 2, 5, 7, 8])] == [
        "",
        "3",
        "1, 2",
        "0-2, 5, 7, 8",
    ]


_FRAMES = st.builds(Frame, st.sampled_from("abc"), st.just("/x.py"), st.integers(1, 3))


@given(st.dictionaries(st.integers(0, 20), st.lists(_FRAMES, max_size=5), max_size=6))
def test_every_stack_can_be_read_back_from_the_tree(held: dict[int, list[Frame]]) -> None:
    def walk(branches: tuple[Branch, ...], rank: int) -> list[Frame]:
        for branch in branches:
            if rank in branch.ranks:
                return [branch.frame, *walk(branch.below, rank)]
        return []

    tree = stacks.merge(held)
    assert {rank: walk(tree, rank) for rank in held} == held
