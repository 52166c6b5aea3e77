"""Metric queries: windows, groups, operators; held against a plain reading line by line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from misstep.core.errors import InputError
from misstep.store import loki


@pytest.fixture(scope="module")
def counted(lines: Any) -> Any:
    """Ten lines, one each second from 1001 on; every other one of level error, each 11 bytes."""
    lines.send(
        *(
            {"ts": 1001 + i, "body": f"took={i}.5s x", "severity": 9 + 8 * (i % 2), "attributes": {"who": "ab"[i % 2]}}
            for i in range(10)
        )
    )  # fmt: skip
    return lines


def rounded(found: dict[Any, list[float]]) -> dict[Any, list[float | None]]:
    return {k: [None if math.isnan(v) else round(v, 6) for v in values] for k, values in found.items()}


@pytest.mark.parametrize(
    ("query", "values"),
    [
        ("sum(count_over_time({}[5s]))", [None, 5, 5, None]),
        ("sum(rate({}[5s]))", [None, 1, 1, None]),
        ("sum(bytes_over_time({}[5s]))", [None, 55, 55, None]),
        ("sum(bytes_rate({}[10s]))", [None, 5.5, 11, 5.5]),
        ("count(count_over_time({}[5s]))", [None, 2, 2, None]),
        ("avg(count_over_time({}[5s]))", [None, 2.5, 2.5, None]),
        ("min(count_over_time({}[5s]))", [None, 2, 2, None]),
        ("max(count_over_time({}[5s]))", [None, 3, 3, None]),
        ("sum(count_over_time({}[5s] offset 5s))", [None, None, 5, 5]),
        ("sum(count_over_time({}[5s])) * 2 - 1", [None, 9, 9, None]),
        ("sum(count_over_time({}[7s])) > 5", [None, None, 7, None]),
        ("sum(count_over_time({}[7s])) > bool 5", [None, 0, 1, 0]),
        ("sum(count_over_time({}[5s])) / sum(count_over_time({}[10s]))", [None, 1, 0.5, None]),
        ("sum(sum_over_time({} | logfmt | unwrap duration(took) [5s]))", [None, 12.5, 37.5, None]),
        ("max(max_over_time({} | logfmt | unwrap duration(took) [7s]))", [None, 4.5, 9.5, 9.5]),
        ("min(min_over_time({} | logfmt | unwrap duration(took) [7s]))", [None, 0.5, 3.5, 8.5]),
        ("avg_over_time({} | logfmt | unwrap duration(took) [5s]) by (none)", [None, 2.5, 7.5, None]),
        ("vector(1)+vector(1)", [2, 2, 2, 2]),
        ("vector(2) ^ 3 % 5", [3, 3, 3, 3]),
    ],
)
def test_values(counted: Any, query: str, values: list[float | None]) -> None:
    assert rounded(counted.numbers(query, 1000, 1015, 5)) == {(): values}


def test_groups(counted: Any) -> None:
    def at(query: str) -> dict[Any, list[float | None]]:
        return rounded(counted.numbers(query, 1005, 1005))

    assert at("sum by (level) (count_over_time({}[5s]))") == {
        (("level", "error"),): [2],
        (("level", "info"),): [3],
    }
    assert at("sum by (who, level) (count_over_time({}[5s]))") == {
        (("level", "error"), ("who", "b")): [2],
        (("level", "info"), ("who", "a")): [3],
    }
    assert at("topk(1, sum by (who) (count_over_time({}[5s])))") == {(("who", "a"),): [3]}
    assert at("bottomk(1, sum by (who) (count_over_time({}[5s])))") == {(("who", "b"),): [2]}
    assert at("sum without (level) (count_over_time({}[5s]))") == {
        (("host_name", "n1"), ("service_name", "web")): [5]
    }
    assert at("max by (who) (sum by (who, level) (count_over_time({}[5s])))") == {
        (("who", "a"),): [3],
        (("who", "b"),): [2],
    }
    assert at("sum by (level) (count_over_time({} | drop __error__ [5s]))") == at(
        "sum by (level) (count_over_time({}[5s]))"
    )
    labels = (("host_name", "n1"), ("service_name", "web"))
    assert at('count_over_time({level="error"}[5s])') == {tuple(sorted((*labels, ("level", "error")))): [2]}


def test_volume(counted: Any) -> None:
    steps = loki.Steps(1010 * 10**9, 10 * 10**9, 1)
    found = loki.volume(counted.view(), '{level=~".+"}', steps)
    assert isinstance(found, loki.Matrix)
    assert sorted((s["level"], v[0]) for s, v in zip(found.series, found.values.tolist(), strict=True)) == [
        ("error", 55), ("info", 55),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "start", "end", "step"),
    [("vector(1)", 0, 9000, 0.5), ("count_over_time({}[1s])", 0, 1e6, 1)],
)
def test_too_many_steps(counted: Any, query: str, start: float, end: float, step: float) -> None:
    with pytest.raises(InputError, match="steps"):
        counted.numbers(query, start, end, step)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(5000, 5100), st.integers(0, 5)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(-20, 20),
    st.sampled_from(["count_over_time", "sum_over_time", "max_over_time", "min_over_time", "avg_over_time"]),
)
def test_windows_are_those_of_a_plain_reading(
    lines: Any, points: list[tuple[int, int]], window: int, step: int, offset: int, function: str
) -> None:
    global _number
    _number += 1
    case = f"case{_number}"
    lines.send(*({"ts": ts, "body": f"v={v}", "attributes": {"case": case}} for ts, v in points))
    unwrap = "" if function == "count_over_time" else "| logfmt | unwrap v "
    found = lines.numbers(f'{function}({{case="{case}"}} {unwrap}[{window}s] offset {offset}s) by (case)', 5000, 5100, step)  # fmt: skip
    folds: dict[str, Callable[[list[int]], float]] = {
        "count_over_time": len, "sum_over_time": sum, "max_over_time": max, "min_over_time": min,
        "avg_over_time": lambda held: sum(held) / len(held),
    }  # fmt: skip
    expected: list[float | None] = []
    for at in range(5000, 5101, step):
        held = [v for ts, v in points if at - offset - window < ts <= at - offset]
        expected.append(round(float(folds[function](held)), 6) if held else None)
    shown = rounded(found).get((("case", case),), [None] * len(expected))
    assert shown == expected


_number = 0
