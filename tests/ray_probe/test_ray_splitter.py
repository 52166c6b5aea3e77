"""The splitter gives the objects of an array as they arrive, however the bytes are cut."""

import json
import random
import tracemalloc

import pytest

from misstep.agent.ray.splitter import Splitter
from misstep.core.errors import InputError


def split(data: bytes, sizes: int, limit: int = 1 << 20) -> tuple[list[dict[str, object]], Splitter]:
    splitter = Splitter(limit)
    found: list[dict[str, object]] = []
    for at in range(0, len(data), sizes):
        found += splitter.feed(data[at : at + sizes])
    found += splitter.finish()
    return found, splitter


EVENTS = [
    {"a": 1, "b": 'x\\"{[]}', "c": [1.5e-3, None, True, {"d": "é€𝄞\u2028"}]},
    {},
    {"text": 'line\nwith } and ] and \\ and " marks', "n": -12345678901234567890},
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_cut_gives_the_same_objects(size: int, ascii_only: bool) -> None:
    data = json.dumps(EVENTS, ensure_ascii=ascii_only, indent=1).encode()
    assert split(data, size)[0] == EVENTS


def test_one_object_counts_as_an_array_of_one() -> None:
    assert split(b' {"a": 1} ', 3)[0] == [{"a": 1}]
    assert split(b" [ ] ", 1)[0] == []


@pytest.mark.parametrize("size", [1, 5, 4096])
def test_an_object_that_is_too_long_is_passed_over_and_counted(size: int) -> None:
    long = {"message": 'a"\\]}' * 4000, "inner": [{"x": "}"}]}
    data = json.dumps([EVENTS[0], long, EVENTS[2]]).encode()
    found, splitter = split(data, size, limit=2000)
    assert found == [EVENTS[0], EVENTS[2]]
    assert splitter.oversized == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b'[{"a": 1}', b'[{"a": 1},', b'{"a": 1', b"[1, 2]", b"nonsense", b'[{"a": 1} {"b": 2}]', b'[{"a": tru}]',
     b'[{"a": 1}]]', b'{"a": 1}{"b": 2}', b'[,{"a": 1}]', b'[{"a": "\xff"}]', b'[{"a": ' + b"[" * 100_000, b'[{"a": ' + b"9" * 9000 + b"}]"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_not_an_array_of_objects_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(InputError):
        split(data, size)


def test_memory_does_not_grow_with_the_body() -> None:
    event = json.dumps({"id": 1, "text": "x" * 4000}).encode() + b","
    splitter = Splitter()
    tracemalloc.start()
    try:
        for _ in splitter.feed(b"["):
            pass
        base = tracemalloc.get_traced_memory()[0]
        for _ in range(400):  # 16 MB
            for _ in splitter.feed(event * 10):
                pass
        grown = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000


def test_random_documents() -> None:
    chance = random.Random(7)

    def value(depth: int) -> object:
        kind = chance.randrange(6 if depth else 4)
        if kind == 4:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        if kind == 5:
            return {chance.choice('ab"{}[]\\é') * 2: value(depth - 1) for _ in range(chance.randrange(4))}
        return [
            None,
            chance.random(),
            chance.randrange(-9, 10**12),
            "".join(chance.choices('ab"\\{}[],: \né𝄞', k=9)),
        ][kind]

    for _ in range(60):
        events: list[dict[str, object]] = [{"v": value(3)} for _ in range(chance.randrange(6))]
        data = json.dumps(events, ensure_ascii=chance.random() < 0.5).encode()
        assert split(data, chance.randrange(1, 40))[0] == events
