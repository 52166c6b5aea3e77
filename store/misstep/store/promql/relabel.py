"""Functions that change or read labels."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np

from misstep.store.promql.aggregate import check_label
from misstep.store.promql.errors import QueryError, failed
from misstep.store.promql.labels import NAME, Bool, Column, Labels, encode
from misstep.store.promql.matrix import SAME, Vector
from misstep.store.promql.patterns import substituted
from misstep.store.promql.syntax import Matcher

_CHUNK = re.compile(r"\d+|\D+")


def replace(vector: Vector, target: str, template: str, source: str, pattern: str) -> Vector:
    """``label_replace``.

    Raises:
        QueryError: a name or the pattern is wrong, or two series become the same.
    """
    check_label(target, "invalid destination label name in label_replace()")
    codes, values = vector.labels.column(source)
    used, inverse = np.unique(codes, return_inverse=True)
    try:
        made = substituted(pattern, template, [values[code] for code in used.tolist()])
    except QueryError as error:
        raise failed(f"invalid regular expression in label_replace(): {pattern}") from error
    fits = np.array([text is not None for text in made], np.bool_)[inverse]
    fresh = encode([text or "" for text in made])
    return _set(vector, target, Column(fresh.codes[inverse], fresh.values), fits)


def join(vector: Vector, target: str, separator: str, sources: Sequence[str]) -> Vector:
    """``label_join``.

    Raises:
        QueryError: a name is wrong, or two series become the same.
    """
    for source in sources:
        check_label(source, "invalid source label name in label_join()")
    check_label(target, "invalid destination label name in label_join()")
    of, first = vector.labels.keep(sources).group() if len(vector) else (np.zeros(0, np.int64),) * 2
    distinct = vector.labels.take(first)
    texts = [distinct.texts(source) for source in sources]
    made = [separator.join(parts) for parts in zip(*texts, strict=True)] if sources else [""] * len(first)
    fresh = encode(made)
    return _set(vector, target, Column(fresh.codes[of], fresh.values), np.ones(len(vector), np.bool_))


def sort_by_label(vector: Vector, names: Sequence[str], *, descending: bool) -> Vector:
    """``sort_by_label`` and ``sort_by_label_desc``: numbers within a value count as numbers."""
    if vector.steps != 1:
        return vector
    vector = vector.compact()
    texts = [vector.labels.texts(name) for name in names]
    whole = [tuple(row.items()) for row in vector.labels.rows()]

    def compare(a: int, b: int) -> int:
        for column in texts:
            if column[a] != column[b]:
                return -1 if _natural_less(column[a], column[b]) else 1
        return (whole[a] > whole[b]) - (whole[a] < whole[b])

    order = sorted(range(len(vector)), key=functools.cmp_to_key(compare), reverse=descending)
    return vector.take(np.array(order, np.int64))


def absent_labels(matchers: Sequence[Matcher]) -> Labels:
    """The labels of the series that ``absent`` makes: those that the matchers fix."""
    fixed: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in matchers:
        if matcher.name == NAME:
            continue
        if matcher.op == "=" and matcher.name not in seen:
            fixed[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            fixed.pop(matcher.name, None)
    return Labels.of([fixed])


def _set(vector: Vector, target: str, fresh: Column, rows: Bool) -> Vector:
    """Put a label where the mask says so; a name that is set stays."""
    old = vector.labels.column(target)
    known = {value: code for code, value in enumerate(old.values)}
    into = np.array([known.setdefault(value, len(known)) for value in fresh.values], np.int32)
    codes = np.where(rows, into[fresh.codes], old.codes).astype(np.int32)
    labels = vector.labels.put(target, Column(codes, tuple(known)))
    nameless = vector.nameless & ~rows if target == NAME else vector.nameless
    found = Vector(labels, vector.values, vector.present, nameless).compact()
    _, first = found.labels.group()
    if len(first) < len(found):
        raise failed(SAME)
    return found


def _natural_less(a: str, b: str) -> bool:
    left, right = _CHUNK.findall(a), _CHUNK.findall(b)
    for x, y in zip(left, right, strict=False):
        if x == y:
            continue
        if x.isdigit() and y.isdigit() and int(x) != int(y):
            return int(x) < int(y)
        return bool(x < y)
    return len(left) < len(right)
