"""What is LogQL and what is not, and that nothing hostile gets further than an error."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from misstep.core.errors import InputError
from misstep.store.logql.expression import (
    Aggregation,
    Binary,
    Both,
    Compare,
    Json,
    LabelFilter,
    LineFilter,
    LogQuery,
    Matcher,
    Number,
    Range,
)
from misstep.store.logql.parser import parse


def test_a_log_query() -> None:
    query = parse(
        '{app="x", level=~"warn|error"} |= "a" or `b` != "c" | json | a_b >= 5s and c="d" or e < 1KB'
    )
    assert query == LogQuery(
        (Matcher("app", "=", "x"), Matcher("level", "=~", "warn|error")),
        (
            LineFilter("|=", ("a", "b")),
            LineFilter("!=", ("c",)),
            Json(),
            LabelFilter(
                Both(
                    "or",
                    Both("and", Compare("a_b", ">=", 5.0, "duration"), Compare("c", "=", "d", "text")),
                    Compare("e", "<", 1000.0, "bytes"),
                )
            ),
        ),
    )


def test_a_metric_query() -> None:
    query = parse("sum by (level) (rate({} [1m] offset 5m)) * 2 > bool 3")
    rate = Range("rate", LogQuery(()), 60 * 10**9, 300 * 10**9)
    assert isinstance(query, Binary) and isinstance(query.left, Binary)
    assert (query.op, query.as_bool, query.right) == (">", True, Number(3.0))
    assert isinstance(query.left.left, Aggregation)
    assert (query.left.left.inner, query.left.left.grouping.names) == (rate, ("level",))


def test_operators_bind_as_in_prometheus() -> None:
    assert parse("1 + 2 * 3") == Binary("+", Number(1), Binary("*", Number(2), Number(3)))
    assert parse("2 ^ 3 ^ 2") == Binary("^", Number(2), Binary("^", Number(3), Number(2)))
    assert parse("1 - 2 - 3") == Binary("-", Binary("-", Number(1), Number(2)), Number(3))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "empty"),
        ("{", "the name of a label"),
        ("{a=b}", "quoted text"),
        ('{a="b"', "'}' is expected"),
        ('{a="b"} |= ', "quoted text"),
        ('{a="b"} |= "\\q"', "unknown escape"),
        ('{a="b"} | json | x', "comparison"),
        ('{a="b"} | x > "5"', "a number"),
        ('{a="b"} | regexp "(x)"', "no named group"),
        ('{a="b"} | pattern "abc"', "no name"),
        ('{a="b"} | line_format "{{ __timestamp__ | date }}"', "not known here"),
        ('{a="b"} ; drop table logs', "not understood"),
        ('rate({a="b"})', "'[' is expected"),
        ('rate({a="b"}[5])', "duration"),
        ('sum(rate({a="b"}[5m])', "')' is expected"),
        ('sum_over_time({a="b"}[5m])', "unwrap"),
        ("foo()", "known are count_over_time"),
        ('sum by (a) (rate({}[1m])) / on (a) sum by (a) (rate({}[1m]))', "equal labels"),
        ("(" * 900 + "1" + ")" * 900, "levels of parentheses"),
        ("{} " + "| json " * 100, "stages"),
        ('{a="' + "x" * 5000 + '"}', "longer than"),
        ("{}" + " " * 20_000, "longer than"),
        ("-" * 1000 + "1", "levels"),
        ("1" + "+1" * 900, "in a row"),
    ],
)  # fmt: skip
def test_mistakes_are_told(query: str, said: str) -> None:
    with pytest.raises(InputError, match=r"parse error|longer") as caught:
        parse(query)
    assert said in str(caught.value)


WORDS = st.sampled_from(
    ['{', '}', '(', ')', '[5m]', '|', '|=', '!=', '=~', '"x"', '`(`', 'json', 'logfmt', 'regexp', '"(?P<a>x)"', 'a',
     'sum', 'by', 'rate', 'count_over_time', '{}', '{a="b"}', ',', '5', '1.5h', '10KB', '+', '^', '-', 'or', 'and', 'unwrap',
     'line_format', '"{{.a}}"', 'offset', 'topk', 'vector', 'bool', 'drop', '#', '\\', "'", 'µs', '\x00', '🙂'])  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(WORDS, max_size=40).map(" ".join) | st.text(max_size=200))
@example("[" * 10_000)
@example('{a="\\ud800"}')
@example("9" * 400)
@example("1e999")
@example("5" + "h5" * 3000)
def test_any_text_is_a_query_or_a_mistake(text: str) -> None:
    try:
        parse(text)
    except InputError as error:
        assert str(error)
