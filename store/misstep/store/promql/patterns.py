"""Matchers and regular expressions, applied to distinct values only.

Patterns run in RE2 (Arrow brings it), the engine that Go's syntax was made after: linear in time whatever the
pattern, and refusing what would compile to too large a program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from misstep.store.promql.errors import malformed
from misstep.store.promql.labels import I32, I64, Bool, Labels
from misstep.store.promql.syntax import Matcher

_LITERALS = re.compile(r"[\w\- /:@,]*(?:\|[\w\- /:@,]*)*", re.ASCII)
_GROUP_NAME = re.compile(r"\?P?<(\w+)>")


def matching(labels: Labels, matchers: Sequence[Matcher]) -> Bool:
    """Which series all matchers match, shape (n,)."""
    found = np.zeros(labels.size, np.bool_)
    found[places(labels, matchers)] = True
    return found


def places(labels: Labels, matchers: Sequence[Matcher]) -> I64:
    """The index of the series that all matchers match."""
    found: I64 | None = None
    for matcher in matchers:
        codes, values = labels.column(matcher.name)
        good = accepted(matcher, values)
        found = np.flatnonzero(_among(codes, good)) if found is None else found[_among(codes[found], good)]
    return np.arange(labels.size) if found is None else found


def _among(codes: I32, good: Bool) -> Bool:
    """Which codes are good; mostly a single one is, and to compare is quicker than to look each up."""
    chosen = np.flatnonzero(good)
    found: Bool = codes == chosen[0] if len(chosen) == 1 else good[codes]
    return found


def accepted(matcher: Matcher, values: Sequence[str]) -> Bool:
    """Which values a matcher accepts.

    Raises:
        QueryError: ``bad_data``; its pattern is none.
    """
    wanted = matcher.value
    if matcher.op in ("=", "!="):
        found = np.fromiter((v == wanted for v in values), np.bool_, len(values))
    else:
        found = matched(wanted, values)
    return ~found if matcher.op.startswith("!") else found


def matched(pattern: str, values: Sequence[str]) -> Bool:
    """Which values a pattern matches from end to end.

    Raises:
        QueryError: ``bad_data``; it is no pattern.
    """
    if _LITERALS.fullmatch(pattern):
        known = set(pattern.split("|"))
        return np.fromiter((v in known for v in values), np.bool_, len(values))
    if pattern in (".*", ".+"):
        return np.fromiter((pattern == ".*" or v != "" for v in values), np.bool_, len(values))
    try:
        found = pc.match_substring_regex(pa.array(values, pa.string()), pattern=_whole(pattern))
    except pa.ArrowException as error:
        raise malformed(f"error parsing regexp: {_reason(error)}") from error
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def substituted(pattern: str, template: str, values: Sequence[str]) -> list[str | None]:
    """What a template says of each value, None where the pattern does not match it whole.

    Args:
        pattern: regular expression.
        template: text with ``$1``, ``${1}``, ``$name`` and ``$$``, as Go's ``Regexp.Expand`` reads it.
        values: what is matched.

    Raises:
        QueryError: ``bad_data``; it is no pattern.
    """
    fits = matched(pattern, values)
    number = group_count(pattern)
    rewrite = _rewrite(template, number, _names(pattern))
    kept = [value for value, fit in zip(values, fits.tolist(), strict=True) if fit]
    if not kept:
        return [None] * len(values)
    try:
        made = pc.replace_substring_regex(
            pa.array(kept, pa.string()), pattern=_whole(pattern), replacement=rewrite, max_replacements=1
        ).to_pylist()
    except pa.ArrowException as error:
        raise malformed(f"error parsing regexp: {_reason(error)}") from error
    answers = iter(made)
    return [next(answers) if fit else None for fit in fits.tolist()]


def group_count(pattern: str) -> int:
    """How many groups a pattern captures."""
    return len(_groups(pattern))


def _whole(pattern: str) -> str:
    return f"^(?s:{pattern})$"


def _names(pattern: str) -> dict[str, int]:
    return {name: place + 1 for place, name in enumerate(_groups(pattern)) if name}


def _groups(pattern: str) -> list[str]:
    """The name of each capturing group, empty for those without."""
    found = []
    inside, place = False, 0
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            place += 1
        elif inside:
            inside = char != "]"
        elif char == "[":
            inside = True
            place += pattern[place + 1 : place + 2] == "^"
            place += pattern[place + 1 : place + 2] == "]"
        elif char == "(":
            name = _GROUP_NAME.match(pattern, place + 1)
            if name:
                found.append(name[1])
            elif pattern[place + 1 : place + 2] != "?":
                found.append("")
        place += 1
    return found


def _rewrite(template: str, groups: int, names: dict[str, int]) -> str:
    """A template of Go as one of RE2."""

    def reference(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        word = found[1] or found[2]
        if word is None:
            return "\\\\" if found[0] == "\\" else found[0]
        place = int(word) if word.isdigit() else names.get(word, -1)
        # RE2 knows nine groups; the tenth and later cannot be said.
        if place > 9:
            raise malformed(f"group ${word}: at most nine groups can be used in a replacement")
        return f"\\{place}" if 0 <= place <= groups else ""

    return re.sub(r"\$\$|\$\{(\w+)\}|\$(\w+)|\\", reference, template)


def _reason(error: pa.ArrowException) -> str:
    return str(error).splitlines()[0][:300]
