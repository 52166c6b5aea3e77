"""Ragged columns in numpy: lists of lists as flat arrays with offsets, and stable hashes of strings.

Hashes are part of the stored format: every collector, of any version, must compute the same. A string's
hash is the first 8 bytes of BLAKE2b; hashes are combined by SplitMix64-like mixing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

CACHE_LIMIT = 500_000
"""Strings whose hashes are remembered; then the cache starts afresh."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_cache: dict[str, int] = {}


def lists(array: Any) -> tuple[Any, I64]:
    """A list array of shape (n,) as its flat values and offsets of shape (n + 1,)."""
    lengths = pc.fill_null(array.value_lengths(), 0).to_numpy(zero_copy_only=False)
    return array.flatten(), offsets_of(lengths)


def offsets_of(lengths: Any) -> I64:
    """Lengths (n,) to offsets (n + 1,)."""
    found = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=found[1:])
    return found


def owners(offsets: I64) -> I64:
    """For each flat item the index of the list that holds it."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def take_ranges(offsets: I64, index: I64) -> tuple[I64, I64]:
    """Flat positions of the items of the lists at `index`, and the new offsets."""
    lengths = np.diff(offsets)[index]
    found = offsets_of(lengths)
    return np.repeat(offsets[index] - found[:-1], lengths) + np.arange(found[-1]), found


def running(values: NDArray[Any], offsets: I64) -> NDArray[Any]:
    """Running sum within each list, of the values' type, flat."""
    total = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=total[1:])
    found: NDArray[Any] = total[1:] - np.repeat(total[offsets[:-1]], np.diff(offsets))
    return found


def sums(values: U64, offsets: I64) -> U64:
    """Sum of each list's items, modulo 2^64: a combination that no order changes."""
    total = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=total[1:])
    found: U64 = total[offsets[1:]] - total[offsets[:-1]]
    return found


def mix(x: U64) -> U64:
    """The finaliser of MurmurHash3: every bit of the input moves every bit of the output."""
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def pair_hashes(first: U64, second: U64) -> U64:
    """Hash of an ordered pair of hashes, element by element."""
    return mix(mix(first) * _GOLDEN ^ second)


def text_hash(text: str) -> int:
    """Hash of one string, 64 bits."""
    known = _cache.get(text)
    if known is None:
        if len(_cache) >= CACHE_LIMIT:
            _cache.clear()
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        known = _cache[text] = int.from_bytes(digest, "little")
    return known


def text_hashes(array: Any) -> U64:
    """Hashes of a string array; the loop runs over distinct strings only."""
    codes, words = encode(array)
    if not len(words):
        return np.zeros(len(array), np.uint64)
    return np.fromiter(map(text_hash, words), np.uint64, len(words))[codes]


def encode(array: Any) -> tuple[NDArray[np.int32], list[str]]:
    """A string array without nulls as codes and the distinct strings."""
    encoded = array.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def last_of_each(owner: I64, key: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of the items that are the last with their (owner, key), in the order given."""
    order = np.lexsort((np.arange(len(owner)), key, owner))
    same = (owner[order][1:] == owner[order][:-1]) & (key[order][1:] == key[order][:-1])
    keep = np.ones(len(owner), bool)
    keep[order[:-1][same]] = False
    return keep


class IdSet:
    """A growing set of 64-bit ids, asked and extended by whole arrays.

    A small sorted array takes what is new and is merged into the large one when it has grown.
    """

    def __init__(self, ids: U64 | None = None) -> None:
        self._base = np.unique(ids) if ids is not None else np.zeros(0, np.uint64)
        self._recent = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._base) + len(self._recent)

    def contains(self, ids: U64) -> NDArray[np.bool_]:
        """Mask of those that are in the set, shape of `ids`."""
        return _found(self._base, ids) | _found(self._recent, ids)

    def add(self, ids: U64) -> None:
        """Put ids in; those that are there already change nothing."""
        new = np.unique(ids[~self.contains(ids)])
        if not len(new):
            return
        self._recent = np.sort(np.concatenate([self._recent, new]), kind="stable")
        if len(self._recent) > max(4096, len(self._base) // 8):
            self._base = np.sort(np.concatenate([self._base, self._recent]), kind="stable")
            self._recent = np.zeros(0, np.uint64)


class RecentIds:
    """An `IdSet` that forgets: it holds at least the last `size` ids and at most twice as many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._current, self._previous = IdSet(), IdSet()
        self._in_both = 0

    def __len__(self) -> int:
        return len(self._current) + len(self._previous) - self._in_both

    def contains(self, ids: U64) -> NDArray[np.bool_]:
        """Mask of those that are remembered."""
        return self._current.contains(ids) | self._previous.contains(ids)

    def add(self, ids: U64) -> None:
        """Remember ids, each given once."""
        if len(self._current) >= self._size:
            self.rotate()
        new = ids[~self._current.contains(ids)]
        self._in_both += int(self._previous.contains(new).sum())
        self._current.add(new)

    def rotate(self) -> None:
        """Forget what was not added since the last rotation."""
        self._previous, self._current = self._current, IdSet()
        self._in_both = 0


def _found(known: U64, ids: U64) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(ids), bool)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    found: NDArray[np.bool_] = known[at] == ids
    return found
