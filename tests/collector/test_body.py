"""Bodies: decompressed up to the limit, read within budget and time."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.collector import body as bodies
from misstep.collector.body import RATIO_FREE, Budget, expand, read
from misstep.collector.refusal import Refusal

MIB = 1024 * 1024
LIMIT = 64 * MIB


def bomb(size: int) -> bytes:
    """Gzip of so many zeros, a block of 1 MiB repeated; its checksum is wrong, which is read last."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * (size // MIB) + packer.flush() + bytes(8)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def receiving(parts: Iterable[bytes], pause: float = 0) -> Any:
    waiting = list(parts)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    return receive


@given(st.binary(max_size=4096))
def test_every_encoding_gives_back_what_was_packed(data: bytes) -> None:
    packed = gzip.compress(data)
    assert expand(data, "", LIMIT) == (data, data, "")
    assert expand(packed, "gzip", LIMIT) == (data, packed, "gzip")
    assert expand(zlib.compress(data), "deflate", LIMIT) == (data, data, "")
    assert expand(raw_deflate(data), "deflate", LIMIT) == (data, data, "")


def test_several_gzip_members_are_kept_plain() -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert expand(packed, "gzip", LIMIT) == (b"one two", b"one two", "")


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (b"", "gzip"),
        (b"not gzip", "gzip"),
        (gzip.compress(b"x" * 100)[:-4], "gzip"),
        (gzip.compress(b"x" * 100)[:-8] + bytes(8), "gzip"),
        (gzip.compress(b"x") + b"rest", "gzip"),
        (zlib.compress(b"x") + b"rest", "deflate"),
        (gzip.compress(b"") * 100_000, "gzip"),
    ],
    ids=["empty", "other", "short", "checksum", "trailing", "trailing-deflate", "members"],
)
def test_damaged_bodies_are_malformed(packed: bytes, encoding: str) -> None:
    with pytest.raises(Refusal) as refused:
        expand(packed, encoding, LIMIT)
    assert (refused.value.status, refused.value.reason) == (400, "compression")


def test_the_limit_is_exact() -> None:
    data = bytes(range(256)) * 4
    assert expand(gzip.compress(data), "gzip", 1024)[0] == data
    for packed, encoding in ((gzip.compress(data + b"x"), "gzip"), (zlib.compress(data + b"x"), "deflate")):
        with pytest.raises(Refusal) as refused:
            expand(packed, encoding, 1024)
        assert (refused.value.status, refused.value.reason) == (413, "too_large")
    split = gzip.compress(data[:600]) + gzip.compress(data[600:] + b"x")
    with pytest.raises(Refusal) as refused:
        expand(split, "gzip", 1024)
    assert refused.value.status == 413


def test_a_bomb_of_a_gigabyte_takes_no_more_memory_than_the_limit() -> None:
    packed = bomb(1024 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as refused:
            expand(packed, "gzip", LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 2.2 * LIMIT
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413


def test_a_small_bomb_is_known_by_its_ratio() -> None:
    packed = bomb(32 * MIB)
    assert len(packed) * 400 < LIMIT
    with pytest.raises(Refusal) as refused:
        expand(packed, "gzip", LIMIT)
    assert (refused.value.status, refused.value.reason) == (413, "ratio")
    plain = bytes(RATIO_FREE)
    assert expand(gzip.compress(plain), "gzip", LIMIT)[0] == plain


@pytest.mark.parametrize("parts", [[b"ab"], [b"a", b"b"], [b"", b"ab"], [b"ab", b""]])
def test_a_body_is_read_and_stays_taken(parts: list[bytes]) -> None:
    budget = Budget(100)
    assert asyncio.run(read(receiving(parts), None, 10, budget)) == b"ab"
    assert budget.used == 2


@pytest.mark.parametrize("declared", [b"11", b"-1", b"x", b"99999999999999999999"])
def test_a_declared_length_over_the_limit_is_not_waited_for(declared: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        asyncio.run(read(receiving([]), declared, 10, Budget(100)))
    assert (refused.value.status, refused.value.close) == (413, True)


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 5, b"x" * 6, b"x"]])
def test_a_body_over_the_limit_gives_its_budget_back(parts: list[bytes]) -> None:
    budget = Budget(100)
    with pytest.raises(Refusal) as refused:
        asyncio.run(read(receiving(parts), None, 10, budget))
    assert (refused.value.status, budget.used) == (413, 0)


def test_no_room_is_overload() -> None:
    budget = Budget(5)
    with pytest.raises(Refusal) as refused:
        asyncio.run(read(receiving([b"abc", b"def"]), None, 10, budget))
    assert (refused.value.status, refused.value.retry_after, budget.used) == (429, 1, 0)


def test_a_slow_sender_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.05)
    budget = Budget(100)
    with pytest.raises(Refusal) as refused:
        asyncio.run(read(receiving([b"a"] * 10, pause=0.02), None, 100, budget))
    assert (refused.value.status, refused.value.reason, budget.used) == (408, "timeout", 0)
