"""Samples that were read by layouts, on their way into the table: no work is done for one request alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from misstep.store.layout import Reading

SAMPLE_BYTES = 36
"""Of one row."""


class Placed(NamedTuple):
    """The points of one request and its journal position."""

    reading: Reading
    seq: int


def samples_of(steady: Sequence[Placed]) -> Any:
    """Rows of table `samples`, request by request."""
    readings = [one.reading for one in steady]
    lengths = [len(reading) for reading in readings]
    columns = {
        "metric": np.concatenate([reading.metric for reading in readings]),
        "series_id": np.concatenate([reading.series for reading in readings]),
        "ts": np.concatenate([reading.ts for reading in readings]),
        "value": np.concatenate([reading.value for reading in readings]),
        "seq": np.repeat(np.array([one.seq for one in steady], np.int64), lengths),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()})
