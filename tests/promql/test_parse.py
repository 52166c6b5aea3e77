"""Whatever is asked, there is a tree or a refusal, soon."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.promql.runner import Storage
from tests.promql.script import Load, Series

from misstep.store.promql import syntax
from misstep.store.promql.errors import QueryError
from misstep.store.promql.parse import parse
from misstep.store.promql.query import instant, range_

PIECES = (
    "x", "y", "{a=~'.*'}", "{}", "(", ")", "[5m]", "[1m:10s]", "[0]", " offset 1m", " offset -1y", " @ 1.5", " @ -3",
    " @ end()", "+", "-", "*", "/", "%", "^", "==bool ", ">", " and ", " or ", " unless ", "on(a)", "ignoring()",
    " group_left(b) ", "sum", "topk(2,", "quantile by (a) (0.5,", "rate(", "abs(", "label_replace(", '"a"', ",", "1",
    "NaN", "Inf", "1e400", "0x1p", "5m", "`", "'", "\\", "#", "\n", "\0", "é", "$1", "scalar(", "vector(", "time()",
    "histogram_quantile(0.9,", "absent(", "count_values('v',", "bottomk(-1,", "clamp(x,1,0)", "fill(1)", "start()",
)  # fmt: skip


@pytest.fixture(scope="module")
def storage() -> Storage:
    found = Storage()
    series = [Series({"__name__": n, "a": a, "b": n}, [1.0, 2.0, None, 4.0]) for n in "xy" for a in "12"]
    found.load(Load(15 * 10**9, series, False))
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
def test_pieces_of_queries(storage: Storage, text: str) -> None:
    for steps in (1, 5):
        try:
            if steps == 1:
                list(instant(storage, text, 45 * 10**9).rows())
            else:
                list(range_(storage, text, 0, 60 * 10**9, 15 * 10**9).rows())
        except QueryError as error:
            assert error.kind in ("bad_data", "execution") and str(error)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    try:
        parse(text)
    except QueryError as error:
        assert error.kind == "bad_data"


def test_times_after_at_are_exact() -> None:
    for text, wanted in (
        ("1.234", 1_234),
        ("-3", -3_000),
        ("1h30m", 5_400_000),
        ("1e3", 1_000_000),
        ("0x10", 16_000),
    ):
        node = parse(f"x @ {text}")
        assert isinstance(node, syntax.Selector) and node.moment.at == wanted * 1_000_000
    strings = parse('label_replace(x, "a", "@ 5", "b", "@ 6")')
    assert isinstance(strings, syntax.Call) and strings.arguments[2] == syntax.Text("@ 5")


@pytest.mark.parametrize("depth", [149, 200, 5000])
def test_depth_is_bounded(depth: int) -> None:
    text = "abs(" * depth + "x" + ")" * depth
    if depth < 150:
        assert parse(text)
    else:
        with pytest.raises(QueryError, match=r"levels|accepted"):
            parse(text)
