"""Exemplars of OTLP as columns: one value that went into a point, and the trace it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.store.attributes import Attributes
from misstep.store.columns import I64

if TYPE_CHECKING:
    from misstep.store.metrics import Metrics


def exemplar_table(metrics: Metrics, found: list[tuple[I64, Any]], keep: NDArray[np.bool_], seq: I64) -> Any:
    """Rows of table `exemplars`; None if there are none.

    An exemplar belongs to its point's series, of a histogram to the series of the bucket that counted it.

    Args:
        metrics: the samples.
        found: the point of each exemplar, and the exemplars, by family.
        keep: points that are stored, shape (points,).
        seq: journal position of each point, shape (points,).
    """
    if not found:
        return None
    point = np.concatenate([points for points, _ in found])
    own = pa.concat_arrays([exemplars for _, exemplars in found])
    value = pc.coalesce(own.field("as_double"), pc.cast(own.field("as_int"), pa.float64(), safe=False))
    ts = own.field("time_unix_nano").to_numpy(zero_copy_only=False).astype(np.int64)
    told = keep[point] & value.is_valid().to_numpy(zero_copy_only=False) & (ts >= 0)
    at = np.flatnonzero(told)
    if not len(at):
        return None
    index = pa.array(at)
    own, point = own.take(index), point[at]
    values = value.take(index).to_numpy(zero_copy_only=False)
    sample = _sample_of(metrics, point, values)
    return pa.table(
        {
            "series_id": pa.array(metrics.series[sample]),
            "metric": pa.array(metrics.metric[sample]),
            "ts": pa.array(np.where(ts[at] == 0, metrics.ts[sample], ts[at])),
            "value": pa.array(values),
            "trace_id": own.field("trace_id"),
            "span_id": own.field("span_id"),
            "labels": Attributes.read(own.field("filtered_attributes")).maps(),
            "seq": pa.array(seq[point]),
        }
    )


def _sample_of(metrics: Metrics, point: I64, value: NDArray[np.float64]) -> I64:
    """The sample that each exemplar belongs to: its point's first, or its bucket's: the lowest that reaches the value."""
    found: I64 = np.searchsorted(metrics.point, point)
    bounds = metrics.bounds()
    buckets = np.flatnonzero(~np.isnan(bounds))
    if not len(buckets):
        return found
    buckets = buckets[np.lexsort((bounds[buckets], metrics.point[buckets]))]
    owner = metrics.point[buckets]
    # Exemplars among the buckets, each before the first that reaches it; NaN sorts behind all and takes the last.
    keys = np.concatenate([point, owner])
    size = np.concatenate([value, bounds[buckets]])
    is_bucket = np.repeat([False, True], [len(point), len(buckets)])
    order = np.lexsort((is_bucket, size, keys))
    place = np.empty(len(order), np.int64)
    place[order] = np.cumsum(is_bucket[order])
    next_bucket = np.minimum(place[: len(point)], len(buckets) - 1)
    last = np.searchsorted(owner, point, side="right") - 1
    has = (last >= 0) & (owner[np.maximum(last, 0)] == point)
    return np.where(has, buckets[np.minimum(next_bucket, np.maximum(last, 0))], found)
