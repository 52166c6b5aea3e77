"""Queries that mean harm: each is answered or refused, in bounded time, and the next is served."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from misstep.core.errors import InputError, StorageError
from misstep.store import loki

TEXTS = st.sampled_from(
    ['""', '"a"', '`\\`', '"{"', '"%"', '"\\x00"', '"\'"', '".*"', '"("', '"[^"', '"a{1000}"', '"(?i)x"', '"\\\\pL+"', '"🙂"', '"$1"',
     '"{{.a}}{{.b}}"', '"(?P<a>.)(?P<b>.*)"', '"<a> <_> <b>"', '"a.b[0]"', '"1e999"', '"5h"', '"9999999999999999999999"']
)  # fmt: skip
NAMES = st.sampled_from(
    ["a", "b", "level", "session", "__error__", "trace_id", "a_b_c_d_e_f_g", "host_name", "process_pid", "x_extracted", "severity_number"]
)  # fmt: skip
MATCHERS = st.tuples(NAMES, st.sampled_from(["=", "!=", "=~", "!~"]), TEXTS).map("".join)
COMPARISONS = st.tuples(NAMES, st.sampled_from([">", "<=", "==", "!="]), st.sampled_from(["5", "1.5h", "10KB", "-1", "1e300"])).map(" ".join)  # fmt: skip
STAGES = st.one_of(
    st.tuples(st.sampled_from(["|=", "!=", "|~", "!~"]), TEXTS).map(" ".join),
    st.sampled_from(["| json", "| logfmt", "| decolorize", "| drop a, level", "| keep a, b", '| json a="b.c", d="e[1]"']),
    st.one_of(MATCHERS, COMPARISONS).map("| {}".format),
    st.tuples(COMPARISONS, st.sampled_from(["or", "and"]), MATCHERS).map(lambda p: f"| ({p[0]} {p[1]} {p[2]})"),
    st.tuples(st.sampled_from(["regexp", "pattern", "line_format"]), TEXTS).map(lambda p: f"| {p[0]} {p[1]}"),
    st.tuples(NAMES, TEXTS).map(lambda p: f"| label_format {p[0]}={p[1]}"),
)  # fmt: skip
LOGS = st.tuples(st.lists(MATCHERS, max_size=3), st.lists(STAGES, max_size=6)).map(
    lambda parts: "{" + ", ".join(parts[0]) + "} " + " ".join(parts[1])
)
WINDOWS = st.sampled_from(["[5m]", "[1ns]", "[1h30m]", "[90y]"])
RANGES = st.one_of(
    st.tuples(st.sampled_from(["rate", "count_over_time", "bytes_rate"]), LOGS, WINDOWS).map(lambda p: f"{p[0]}({p[1]} {p[2]})"),
    st.tuples(st.sampled_from(["sum_over_time", "max_over_time", "avg_over_time"]), LOGS, NAMES, WINDOWS).map(
        lambda p: f"{p[0]}({p[1]} | unwrap {p[2]} {p[3]}) by (level)"
    ),
)  # fmt: skip
METRICS = st.recursive(
    RANGES | st.sampled_from(["1", "vector(0)", "-2.5"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["sum", "avg", "topk(3,", "bottomk(0,"]), NAMES, inner).map(
            lambda p: f"{p[0]} {p[2]})" if p[0].endswith(",") else f"{p[0]} by ({p[1]}) ({p[2]})"
        ),
        st.tuples(inner, st.sampled_from(["+", "/", "%", "^", "> bool", "<="]), inner).map(lambda p: f"({p[0]}) {p[1]} ({p[2]})"),
    ),
    max_leaves=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(lines: Any) -> Any:
    bodies = [
        '{"a": {"b": 1}, "x": "y"}',
        'a=1 b="2 \\" c" level=5h',
        "{" * 2000,
        "[" * 100_000,
        "\x00\x1b🙂",
        "a" * 50_000,
        "",
    ]
    lines.send(
        *(
            {"ts": 1000 + i, "body": body, "attributes": {"a": "1", "a.b": "", "é": "x"}}
            for i, body in enumerate(bodies)
        )
    )
    return lines  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LOGS)
def test_any_log_query_is_answered_or_refused(hostile: Any, query: str) -> None:
    try:
        parsed = loki.parse(query)
        assert isinstance(parsed, loki.LogQuery)
        found = loki.lines(hostile.view(), parsed, start=0, end=10**13, limit=100)
    except InputError as error:
        assert str(error)
    else:
        assert len(found) <= 7


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METRICS)
def test_any_metric_query_is_answered_or_refused(hostile: Any, query: str) -> None:
    try:
        parsed = loki.parse(query)
        assert not isinstance(parsed, loki.LogQuery)
        found = loki.evaluate(hostile.view(), parsed, loki.steps_of(10**12, 10**12 + 10**11, 10**10))
    except InputError as error:
        assert str(error)
    else:
        assert isinstance(found, float) or found.values.shape == (len(found.series), 11)


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(a|aa)+$b", "(.*)(.*)(.*)(.*)(.*)x", "(?:a?){200}a{200}b", "^(a+)+$"]
)
def test_expressions_that_explode_elsewhere_are_linear_here(hostile: Any, pattern: str) -> None:
    began = time.monotonic()
    hostile.ask(f'{{}} |~ "{pattern}"')
    hostile.ask(f'{{a=~"{pattern}"}}')
    hostile.ask(f'{{}} | regexp "(?P<x>{pattern})"')
    assert time.monotonic() - began < 10


def test_a_question_is_interrupted(hostile: Any) -> None:
    """What another thread ends raises, and the store goes on."""
    view = hostile.view()
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.05):
            view.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(StorageError):
            view.ask("SELECT count(*) FROM range(100000000) a, range(1000) b, {logs}")
    finally:
        ended.set()
        thread.join()
    assert len(hostile.ask("{}")) == 7
