"""Functions of windows beside the plain rules, bit by bit, over series that share their times, nearly do, or do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from misstep.store.promql.labels import Labels
from misstep.store.promql.query import range_
from misstep.store.promql.source import Memory

SECOND = 10**9
T = 1_700_000_000 * SECOND
STEP, STEPS = 7 * SECOND, 24
Series = list[tuple[int, float]]


@st.composite
def timelines(draw: st.DrawFn) -> list[int]:
    """Times some seconds apart, off the second, with gaps."""
    jitter = draw(st.integers(0, 2_000_000))
    places = draw(st.lists(st.integers(0, 30), unique=True, max_size=25).map(sorted))
    return [T + place * 5 * SECOND + jitter for place in places]


@st.composite
def edited(draw: st.DrawFn, times: list[int]) -> list[int]:
    """The same times mostly; or one a nanosecond later, or left out."""
    times = list(times)
    kind = draw(st.sampled_from(("as it is", "as it is", "as it is", "moved", "dropped")))
    if times and kind != "as it is":
        place = draw(st.integers(0, len(times) - 1))
        times[place : place + 1] = [times[place] + 1] if kind == "moved" else []
    return times


@st.composite
def fleets(draw: st.DrawFn) -> list[Series]:
    """Counters in quarters, so that no order of adding them makes a difference; some begin at zero, or anew."""
    shared = draw(st.lists(timelines(), min_size=1, max_size=3))
    found = []
    for _ in range(draw(st.integers(1, 12))):
        times = draw(edited(draw(st.sampled_from(shared))))
        growth = draw(st.lists(st.integers(-3, 12), min_size=len(times), max_size=len(times)))
        value, values = float(draw(st.sampled_from((0, 0, 1, -2, 4000)))), []
        for more in growth:
            # Below zero: it begins anew.
            value = more / 4 + value if more >= 0 else 0.25
            values.append(value)
        found.append(list(zip(times, values, strict=True)))
    return found


def memory(fleet: list[Series]) -> Memory:
    labels = Labels.of([{"__name__": "m", "n": str(number)} for number in range(len(fleet))])
    flat = [(number, *sample) for number, series in enumerate(fleet) for sample in series]
    row, ts, value = zip(*flat, strict=True) if flat else ((), (), ())
    return Memory(labels, np.array(row, np.int32), np.array(ts, np.int64), np.array(value, np.float64))


def extrapolated(window: Series, end: int, length: int, *, counter: bool, per_second: bool) -> float | None:
    """Prometheus' extrapolatedRate, number by number."""
    if len(window) < 2:
        return None
    (begin, first), (finish, last) = window[0], window[-1]
    found = last - first
    if counter:
        found += sum(a for (_, a), (_, b) in itertools.pairwise(window) if b < a)
    to_start, to_end = (begin - (end - length)) / 1e9, (end - finish) / 1e9
    sampled = (finish - begin) / 1e9
    between = sampled / (len(window) - 1)
    if to_start >= between * 1.1:
        to_start = between / 2
    if counter and found > 0 and first >= 0:
        to_start = min(to_start, sampled * (first / found))
    if to_end >= between * 1.1:
        to_end = between / 2
    factor = (sampled + to_start + to_end) / sampled
    return found * (factor / (length / 1e9) if per_second else factor)


def rate(window: Series, end: int, length: int) -> float | None:
    return extrapolated(window, end, length, counter=True, per_second=True)


def increase(window: Series, end: int, length: int) -> float | None:
    return extrapolated(window, end, length, counter=True, per_second=False)


def delta(window: Series, end: int, length: int) -> float | None:
    return extrapolated(window, end, length, counter=False, per_second=False)


def of_values(make: Callable[[list[float]], float]) -> Callable[[Series, int, int], float | None]:
    return lambda window, end, length: float(make([v for _, v in window])) if window else None


PLAIN: dict[str, Callable[[Series, int, int], float | None]] = {
    "rate": rate,
    "increase": increase,
    "delta": delta,
    "count_over_time": of_values(len),
    "max_over_time": of_values(max),
    "first_over_time": of_values(lambda v: v[0]),
    "last_over_time": of_values(lambda v: v[-1]),
    "resets": of_values(lambda v: sum(b < a for a, b in itertools.pairwise(v))),
    "changes": of_values(lambda v: sum(b != a for a, b in itertools.pairwise(v))),
    "ts_of_last_over_time": lambda window, end, length: window[-1][0] / 1e9 if window else None,
}


@settings(max_examples=60)
@given(fleets(), st.sampled_from((10, 28, 60)))
def test_windows_are_those_of_the_plain_rules(fleet: list[Series], seconds: int) -> None:
    source, length = memory(fleet), seconds * SECOND
    ends = [T + step * STEP for step in range(STEPS)]
    windows = {
        (number, end): [sample for sample in series if end - length < sample[0] <= end]
        for number, series in enumerate(fleet)
        for end in ends
    }
    for name, plain in PLAIN.items():
        answer = range_(source, f"{name}(m[{seconds}s])", ends[0], ends[-1], STEP)
        found = {
            (int(row.labels["n"]), ts): value.hex()
            for row in answer.rows()
            for ts, value in zip(row.ts.tolist(), row.values.tolist(), strict=True)
        }
        wanted = {key: plain(window, key[1], length) for key, window in windows.items()}
        assert found == {key: value.hex() for key, value in wanted.items() if value is not None}, name
