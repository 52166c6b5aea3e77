"""A seal's order: metric, series, time, position, whatever order the samples came in."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from misstep.store.schema import SAMPLES
from misstep.store.sorting import by_series

METRICS = [7, 2**32 - 1, 0]
SERIES = {5: 7, 2**64 - 1: 7, 0: 2**32 - 1, 9: 0, 2**63: 0}
SAMPLE = st.tuples(st.sampled_from(sorted(SERIES)), st.integers(0, 3), st.integers(0, 9))


def table(rows: list[tuple[int, int, float, int]]) -> Any:
    kinds = {"metric": pa.uint32(), "series_id": pa.uint64(), "ts": pa.int64(), "value": pa.float64(), "seq": pa.int64()}  # fmt: skip
    full = [(SERIES[series], series, *rest) for series, *rest in rows]
    columns = list(zip(*full, strict=True)) or [()] * len(kinds)
    found = pa.table({name: pa.array(c, k) for (name, k), c in zip(kinds.items(), columns, strict=True)})
    return pa.concat_tables([found.slice(0, 2), found.slice(2)])


@given(st.lists(SAMPLE))
def test_samples_come_out_in_the_order_of_the_table(samples: list[tuple[int, int, int]]) -> None:
    rows = [(series, ts, number / 2, seq) for seq, (series, ts, number) in enumerate(samples)]
    found = by_series(table(rows)).to_pylist()
    expected = sorted(table(rows).to_pylist(), key=lambda row: tuple(row[column] for column in SAMPLES.order))
    assert found == expected
