"""Attributes of OTLP as ragged text columns: promoted keys, hashes of identity, maps."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.common.v1 import common_pb2

from misstep.store.columns import (
    I64,
    U64,
    encode,
    last_of_each,
    lists,
    mix,
    offsets_of,
    owners,
    pair_hashes,
    sums,
    take_ranges,
    text_hash,
)


class Attributes:
    """Attribute lists of n owners, values as text.

    Attributes:
        offsets: shape (n + 1,), into the flat items.
        codes: each item's key as an index into `names`.
        text: each item's value, an Arrow string array without nulls.
    """

    def __init__(self, offsets: I64, codes: NDArray[Any], names: list[str], text: Any) -> None:
        self.offsets, self.codes, self.names, self.text = offsets, codes, names, text

    @classmethod
    def read(cls, array: Any) -> Attributes:
        """From a list array of ``KeyValue``; a key that is repeated counts with its last value."""
        items, offsets = lists(array)
        codes, names = encode(items.field("key"))
        return cls.distinct(offsets, codes, names, value_text(items.field("value")))

    @classmethod
    def distinct(cls, offsets: I64, codes: NDArray[Any], names: list[str], text: Any) -> Attributes:
        """From flat items; a key that is repeated counts with its last value."""
        return cls(offsets, codes, names, text)._without_repeats()

    @classmethod
    def of(cls, columns: dict[str, Any]) -> Attributes:
        """From string arrays of shape (n,) by key; an empty string is no attribute."""
        told = [pc.not_equal(column, "").to_numpy(zero_copy_only=False) for column in columns.values()]
        owner = np.concatenate([np.flatnonzero(mask) for mask in told])
        codes = np.repeat(np.arange(len(told), dtype=np.int32), [int(mask.sum()) for mask in told])
        order = np.argsort(owner, kind="stable")
        text = pa.concat_arrays(
            [_array(c.filter(pa.array(m))) for c, m in zip(columns.values(), told, strict=True)]
        )
        offsets = offsets_of(np.bincount(owner, minlength=len(told[0])))
        return cls(offsets, codes[order], list(columns), text.take(pa.array(order)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def column(self, name: str) -> Any:
        """The value under `name` of each owner, a string array of shape (n,); empty where there is none."""
        source = np.full(len(self), -1, np.int64)
        if name in self.names:
            at = np.flatnonzero(self.codes == self.names.index(name))
            source[np.searchsorted(self.offsets, at, side="right") - 1] = at
        return pc.fill_null(self.text.take(pa.array(source, mask=source < 0)), "")

    def select(self, keep: NDArray[np.bool_]) -> Attributes:
        """Only the items under the mask; the owners stay."""
        kept = offsets_of(np.bincount(owners(self.offsets)[keep], minlength=len(self)))
        return Attributes(kept, self.codes[keep], self.names, self.text.filter(pa.array(keep)))

    def only(self, names: frozenset[str]) -> Attributes:
        """Only the items whose key is among `names`."""
        return self.select(self._is_among(names))

    def without(self, names: frozenset[str]) -> Attributes:
        """All items but those whose key is among `names`."""
        return self.select(~self._is_among(names))

    def select_text(self) -> Attributes:
        """Only the items whose value is not empty."""
        told = pc.not_equal(self.text, "").to_numpy(zero_copy_only=False)
        return self if told.all() else self.select(told)

    def take(self, index: I64) -> Attributes:
        """The lists of the owners at `index`, which may repeat."""
        at, offsets = take_ranges(self.offsets, index)
        return Attributes(offsets, self.codes[at], self.names, self.text.take(pa.array(at)))

    def key_hashes(self) -> U64:
        """One hash per owner over its set of keys, shape (n,)."""
        return sums(mix(self._name_hashes()[self.codes]), self.offsets)

    def pair_sums(self) -> U64:
        """One hash per owner over its set of (key, value), shape (n,)."""
        return sums(self.item_hashes(), self.offsets)

    def item_hashes(self) -> U64:
        """One hash per item over key and value."""
        codes, words = encode(self.text)
        hashes = np.fromiter(map(text_hash, words), np.uint64, len(words))
        values = hashes[codes] if len(words) else np.zeros(0, np.uint64)
        return pair_hashes(self._name_hashes()[self.codes], values)

    def longest(self) -> I64:
        """Bytes of each owner's longest value, shape (n,)."""
        lengths = pc.binary_length(self.text).to_numpy(zero_copy_only=False).astype(np.int64)
        found = np.zeros(len(self), np.int64)
        np.maximum.at(found, owners(self.offsets), lengths)
        return found

    def maps(self) -> Any:
        """An Arrow map array of shape (n,), keys sorted in each."""
        rank = np.argsort(np.argsort(np.array(self.names, dtype=object)))
        order = np.lexsort((rank[self.codes], owners(self.offsets)))
        names = pa.array(self.names, pa.string())
        keys = names.take(pa.array(self.codes[order]))
        return pa.MapArray.from_arrays(
            pa.array(self.offsets.astype(np.int32)), keys, self.text.take(pa.array(order))
        )

    def _is_among(self, names: frozenset[str]) -> NDArray[np.bool_]:
        chosen = np.array([name in names for name in self.names], bool)
        return chosen[self.codes] if len(chosen) else np.zeros(0, bool)

    def _name_hashes(self) -> U64:
        return np.fromiter(map(text_hash, self.names), np.uint64, len(self.names))

    def _without_repeats(self) -> Attributes:
        if not self._repeats():
            return self
        return self.select(last_of_each(owners(self.offsets), self.codes))

    def _repeats(self) -> bool:
        """Whether some owner has a key twice: owners with one set of keys need one look."""
        patterns, first = np.unique(self.key_hashes(), return_index=True)
        if len(patterns) > 64:
            return not bool(last_of_each(owners(self.offsets), self.codes).all())
        for at in first:
            keys = self.codes[self.offsets[at] : self.offsets[at + 1]]
            if len(np.unique(keys)) < len(keys):
                return True
        return False


def joined(first: Attributes, second: Attributes) -> Attributes:
    """The lists of both, owner by owner; under a key that both have, the second's value counts."""
    names = first.names + [n for n in second.names if n not in set(first.names)]
    place = {name: i for i, name in enumerate(names)}
    recode = np.array([place[n] for n in second.names], np.int32)
    owner = np.concatenate([owners(first.offsets), owners(second.offsets)])
    codes = np.concatenate([first.codes, recode[second.codes] if len(recode) else second.codes])
    keep = last_of_each(owner, codes)
    order = np.argsort(owner, kind="stable")
    order = order[keep[order]]
    text = pa.concat_arrays([_array(first.text), _array(second.text)])
    offsets = offsets_of(np.bincount(owner[order], minlength=len(first)))
    return Attributes(offsets, codes[order], names, text.take(pa.array(order)))


def value_text(values: Any) -> Any:
    """``AnyValue`` structs as text: strings as they are, numbers as Python writes them, lists and maps as JSON.

    Bytes are base64, as in OTLP's JSON; a value that is not set is empty.
    """
    fields = dict(zip((f.name for f in values.type), values.flatten(), strict=True))
    text = fields["string_value"]
    if text.null_count:
        rest = [pc.cast(fields["int_value"], pa.string()), pc.cast(fields["bool_value"], pa.string())]
        for name, write in _WRITERS.items():
            if fields[name].null_count < len(values):
                rest.append(_written(fields[name], write))
        text = pc.coalesce(text, *rest, pa.scalar("", pa.string()))
    return _array(text)


def _written(column: Any, write: Any) -> Any:
    encoded = column.dictionary_encode()
    words = pa.array([write(v) for v in encoded.dictionary.to_pylist()], pa.string())
    return words.take(encoded.indices)


def _array(array: Any) -> Any:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _plain(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind) if kind else None


def _json(field: str, message: Any) -> Any:
    def write(data: bytes) -> str:
        value = common_pb2.AnyValue()
        try:
            getattr(value, field).CopyFrom(message.FromString(data))
        except DecodeError:
            return base64.b64encode(data).decode()
        return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))

    return write


_WRITERS = {
    "double_value": repr,
    "bytes_value": lambda data: base64.b64encode(data).decode(),
    "array_value": _json("array_value", common_pb2.ArrayValue),
    "kvlist_value": _json("kvlist_value", common_pb2.KeyValueList),
}
