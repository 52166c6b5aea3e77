"""Query parameters, times and cursors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from misstep.collector.api.parameter import (
    AT,
    CURSOR,
    LIMIT,
    Parameter,
    decode_cursor,
    encode_cursor,
    page,
    parse,
    parse_time,
)
from misstep.collector.refusal import Refusal

DECLARED = (
    AT,
    LIMIT,
    CURSOR,
    Parameter("event", "texts", ""),
    Parameter("plain", "flag", ""),
    Parameter("status", "text", "", ("open", "ended")),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.25", 1_700_000_000_250_000_000),
        ("1700000000123456789", 1_700_000_000_123_456_789),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000_000_000_000),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "now", "1.2.3", "-5", "1e9", "14:02:31"])
def test_what_is_no_time_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31T14:02:31Z"):
        parse_time(text)


def test_defaults_and_repetition() -> None:
    values = parse(DECLARED, [("event", "a"), ("event", "b"), ("plain", "1")])
    assert values == {
        "at": None,
        "limit": 1000,
        "cursor": None,
        "event": ["a", "b"],
        "plain": True,
        "status": None,
    }


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("ad", "1", "did you mean at"),
        ("zzzzzz", "1", "known are at, limit"),
        ("limit", "0", "from 1 to 10000"),
        ("limit", "10001", "from 1 to 10000"),
        ("limit", "ten", "from 1 to 10000"),
        ("plain", "yes", "true or false"),
        ("status", "closed", "open, ended"),
        ("at", "yesterday", "Unix seconds"),
    ],
)
def test_wrong_parameters_say_what_is_accepted(name: str, value: str, hint: str) -> None:
    with pytest.raises(Refusal, match=hint) as refused:
        parse(DECLARED, [(name, value)])
    assert refused.value.status == 400


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=3)), unique=True), st.integers(1, 4))
def test_pages_together_are_the_list(items: list[tuple[int, str]], limit: int) -> None:
    found: list[tuple[int, str]] = []
    cursor: str | None = None
    while True:
        part, cursor = page(items, lambda item: item, cursor, limit)
        assert len(part) <= limit
        found += part
        if cursor is None:
            break
    assert found == sorted(items)


@pytest.mark.parametrize("cursor", ["!", "abc", encode_cursor(())[:-1] + "x", "é", "eyJhIjoxfQ"])
def test_foreign_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(Refusal):
        decode_cursor(cursor)


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(Refusal, match="another list"):
        page([(1, "a")], lambda item: item, encode_cursor(("a", 1)), 10)
