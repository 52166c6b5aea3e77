"""The labels of many series as dictionary-encoded columns: questions about them are sums over integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Index = I64 | Bool

NAME = "__name__"
_WIDEST = 1 << 62


class Column(NamedTuple):
    """One label of n series.

    Attributes:
        codes: index into `values`, shape (n,).
        values: distinct values, or more than those in use; the first is empty and stands for "has no such label".
    """

    codes: I32
    values: Sequence[str]


class Labels:
    """The labels of `size` series; a series without a label and one with an empty value are the same."""

    def __init__(self, columns: Mapping[str, Column], size: int) -> None:
        self.columns = dict(columns)
        self.size = size

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]]) -> Labels:
        """From one mapping a series; for tests and small results."""
        columns = {}
        for name in {name for row in rows for name in row}:
            columns[name] = encode([row.get(name, "") for row in rows])
        return cls(columns, len(rows))

    @classmethod
    def none(cls, size: int) -> Labels:
        """So many series without labels."""
        return cls({}, size)

    def take(self, index: Index) -> Labels:
        """The series at an index or of a mask."""
        columns = {name: Column(c.codes[index], c.values) for name, c in self.columns.items()}
        size = int(np.count_nonzero(index)) if index.dtype == np.bool_ else len(index)
        return Labels(columns, size)

    def keep(self, names: Iterable[str]) -> Labels:
        """Only these labels."""
        wanted = set(names)
        return Labels({name: c for name, c in self.columns.items() if name in wanted}, self.size)

    def drop(self, names: Iterable[str]) -> Labels:
        """All but these labels."""
        unwanted = set(names)
        return Labels({name: c for name, c in self.columns.items() if name not in unwanted}, self.size)

    def put(self, name: str, column: Column) -> Labels:
        """With one label replaced."""
        return Labels({**self.columns, name: column}, self.size)

    def blank(self, name: str, rows: Bool) -> Labels:
        """Without one label where the mask says so."""
        if name not in self.columns or not rows.any():
            return self
        codes, values = self.columns[name]
        return self.put(name, Column(np.where(rows, 0, codes).astype(np.int32), values))

    def column(self, name: str) -> Column:
        """A label; empty values if none of the series has it."""
        return self.columns.get(name) or Column(np.zeros(self.size, np.int32), ("",))

    def texts(self, name: str) -> list[str]:
        """The values of a label, one a series."""
        codes, values = self.column(name)
        return [values[code] for code in codes.tolist()]

    def replaced(self, name: str, change: Callable[[str], str]) -> Column:
        """A label's values after a change that is made once for each distinct value."""
        codes, values = self.column(name)
        used, inverse = np.unique(codes, return_inverse=True)
        fresh = encode([change(values[code]) for code in used.tolist()])
        return Column(fresh.codes[inverse], fresh.values)

    def group(self) -> tuple[I64, I64]:
        """Which series are alike: the number of each one's group, and the first series of each group.

        Groups are numbered in the order of their first series.
        """
        if not self.columns or self.size < 2:
            return np.zeros(self.size, np.int64), np.zeros(min(self.size, 1), np.int64)
        return grouped((c.codes, len(c.values)) for c in self.columns.values())

    def rows(self) -> Iterator[dict[str, str]]:
        """One mapping a series, labels in order of their names."""
        names = sorted(self.columns)
        texts = [self.texts(name) for name in names]
        for values in zip(*texts, strict=True) if names else ((),) * self.size:
            yield {name: value for name, value in zip(names, values, strict=True) if value}

    def row(self, place: int) -> dict[str, str]:
        """The labels of one series, in order of their names."""
        found = {
            name: self.columns[name].values[self.columns[name].codes[place]] for name in sorted(self.columns)
        }
        return {name: value for name, value in found.items() if value}

    def order(self) -> I64:
        """The index that sorts the series as Prometheus does: label by label, by name, then value."""
        if self.size < 2:
            return np.arange(self.size)
        keys: list[I64] = []
        more = np.zeros(self.size, np.bool_)
        for name in sorted(self.columns, reverse=True):
            codes, values = self.columns[name]
            used, inverse = np.unique(codes, return_inverse=True)
            texts = [values[code] for code in used.tolist()]
            rank = np.empty(len(used), np.int64)
            rank[sorted(range(len(used)), key=texts.__getitem__)] = np.arange(1, len(used) + 1)
            # Who has no such label, but later ones, comes after those who have; who has no more, before.
            absent = np.where(more, len(used) + 1, 0)
            keys.append(np.where(codes == 0, absent, rank[inverse]))
            more |= codes != 0
        return np.lexsort(keys) if keys else np.arange(self.size)


def encode(values: Sequence[str]) -> Column:
    """A column of texts."""
    known: dict[str, int] = {"": 0}
    codes = np.fromiter((known.setdefault(v, len(known)) for v in values), np.int32, len(values))
    return Column(codes, tuple(known))


def joined(parts: Sequence[Labels]) -> Labels:
    """The series of several tables, one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = {name: None for part in parts for name in part.columns}
    columns = {name: _joined([part.column(name) for part in parts]) for name in names}
    return Labels(columns, sum(part.size for part in parts))


def grouped(keys: Iterable[tuple[I32, int]]) -> tuple[I64, I64]:
    """Number of the group and first member of each, by codes that are below a bound; see `Labels.group`."""
    key: I64 | None = None
    bound = 1
    for codes, most in keys:
        if key is None:
            key, bound = codes.astype(np.int64), most
            continue
        if bound * most >= _WIDEST:
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
            bound = len(key)
        key = key * most + codes
        bound *= most
    assert key is not None
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse], first[order]


def _joined(columns: Sequence[Column]) -> Column:
    first = columns[0]
    if all(c.values is first.values for c in columns):
        return Column(np.concatenate([c.codes for c in columns]), first.values)
    known = {value: code for code, value in enumerate(first.values)}
    codes = [first.codes]
    for column in columns[1:]:
        used = np.unique(column.codes)
        into = np.zeros(len(column.values), np.int32)
        into[used] = [known.setdefault(column.values[code], len(known)) for code in used.tolist()]
        codes.append(into[column.codes])
    return Column(np.concatenate(codes).astype(np.int32), tuple(known))
