"""Metrics of OTLP as columns: one item per point of a gauge or a sum, and the series they belong to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core import names
from misstep.store import otlp
from misstep.store.attributes import Attributes, joined
from misstep.store.columns import I64, U64, lists, mix, offsets_of, owners, pair_hashes, text_hashes
from misstep.store.translation import metric_name
from misstep.store.verdict import CODE

RESOURCE_LABELS = frozenset(
    {names.HOST_NAME, names.HOST_ID, names.SERVICE, "service.instance.id", names.SESSION}
)
"""Attributes of the sender that become labels of its series; a point's own label of that name counts more."""

STALE = 0x7FF0000000000002
"""Bits of the NaN with which Prometheus says that a series has ended; for points that are flagged "no recorded value"."""

_CUMULATIVE = 2
_NO_RECORDED_VALUE = 1
_KINDS = ("gauge", "sum", "sum_non_monotonic")


class Metrics:
    """The points of a batch of requests, ordered by request.

    Attributes:
        request: index of the request in the batch, shape (n,).
        metric: hash of the metric's name, 32 bits.
        series: hash of name and labels.
        ts: Unix nanoseconds.
        value: as float64; integers beyond 2^53 lose their last digits.
        codes: why a point cannot be stored by its own shape (see `verdict`), 0 if it can.
        unsupported: per request, how many points are of a type that is not stored.
    """

    request: I64
    metric: NDArray[np.uint32]
    series: U64
    ts: I64
    value: NDArray[np.float64]
    codes: NDArray[np.uint8]
    unsupported: I64

    def __init__(self, payloads: list[bytes]) -> None:
        """Decode.

        Raises:
            UndecodableError: one of them is damaged.
        """
        resources, per_request = lists(otlp.decode(otlp.METRICS, payloads))
        self.resources = Attributes.read(resources.field("resource").field("attributes"))
        self.resource_ids = mix(self.resources.pair_sums())
        scopes, per_resource = lists(resources.field("scope_metrics"))
        metrics, per_scope = lists(scopes.field("metrics"))
        self._resource_of_metric = owners(per_resource)[owners(per_scope)]
        request_of_metric = owners(per_request)[self._resource_of_metric]
        self._names = metrics.field("name")
        self._units = metrics.field("unit")
        self._read_points(metrics, request_of_metric)
        self._identify()
        self.unsupported = _unsupported(metrics, request_of_metric, len(payloads))

    def __len__(self) -> int:
        return len(self.request)

    def labels_per_point(self) -> I64:
        """How many labels each point's series has, resource labels included."""
        found: I64 = np.diff(self.labels.offsets) + np.diff(self._chosen.offsets)[self.resource]
        return found if self._disjoint else np.diff(self.labels.offsets)

    def longest_label(self) -> I64:
        """Bytes of the longest value among each point's labels."""
        own = self.labels.longest()
        return np.maximum(own, self._chosen.longest()[self.resource]) if self._disjoint else own

    def define(self, points: I64, seq: I64) -> Any:
        """Rows of table `series` for the points at the index, learned at journal positions `seq`."""
        labels = self.labels.take(points)
        if self._disjoint:
            labels = joined(self._chosen.take(self.resource[points]), labels)
        metric = pa.array(self._metric[points])
        kinds = pa.array(_KINDS, pa.string())
        return pa.table(
            {
                "series_id": pa.array(self.series[points]),
                "metric": pa.array(self.metric[points]),
                "name": self._names.take(metric),
                "labels": labels.maps(),
                "kind": kinds.take(pa.array(self._kind[points])),
                "unit": self._units.take(metric),
                "session": labels.column(names.SESSION),
                "resource": pa.array(self.resource_ids[self.resource[points]]),
                "seq": pa.array(seq),
                "prometheus": self._prometheus(points),
            }
        )

    def _prometheus(self, points: I64) -> Any:
        """The Prometheus name of each point's series; the loop runs over distinct metrics."""
        pairs = np.stack([self._metric[points], self._kind[points]], axis=1)
        distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
        own, units = (a.take(pa.array(distinct[:, 0])).to_pylist() for a in (self._names, self._units))
        kinds = [_KINDS[kind] for kind in distinct[:, 1].tolist()]
        words = pa.array(map(metric_name, own, units, kinds), pa.string())
        return words.take(pa.array(inverse.ravel()))

    def _read_points(self, metrics: Any, request_of_metric: I64) -> None:
        gauges, of_gauge = lists(metrics.field("gauge").field("data_points"))
        totals, of_total = lists(metrics.field("sum").field("data_points"))
        metric = np.concatenate([owners(of_gauge), owners(of_total)])
        is_sum = np.arange(len(metric)) >= len(gauges)
        order = np.argsort(request_of_metric[metric], kind="stable")
        in_order = bool((np.diff(order) == 1).all()) if len(order) else True
        index = None if in_order else pa.array(order)

        def column(name: str) -> Any:
            both = pa.concat_arrays([gauges.field(name), totals.field(name)])
            return both if index is None else both.take(index)

        self._metric = metric[order]
        self.request = request_of_metric[self._metric]
        self.resource = self._resource_of_metric[self._metric]
        self.labels = Attributes.read(column("attributes"))
        self.ts = column("time_unix_nano").to_numpy(zero_copy_only=False).astype(np.int64)
        doubles, integers = column("as_double"), column("as_int")
        value = pc.coalesce(doubles, pc.cast(integers, pa.float64(), safe=False))
        stale = (column("flags").to_numpy(zero_copy_only=False) & _NO_RECORDED_VALUE) != 0
        missing = value.is_null().to_numpy(zero_copy_only=False) & ~stale
        self.value = np.array(pc.fill_null(value, 0.0).to_numpy(zero_copy_only=False))
        self.value.view(np.uint64)[stale] = STALE
        self._judge(metrics.field("sum"), is_sum[order], missing)

    def _judge(self, totals: Any, is_sum: NDArray[np.bool_], missing: NDArray[np.bool_]) -> None:
        temporality = _plain(totals.field("aggregation_temporality"), 0)[self._metric]
        monotonic = _plain(totals.field("is_monotonic"), False)[self._metric]
        self._kind = np.where(is_sum, np.where(monotonic, 1, 2), 0)
        self.codes = np.zeros(len(self.ts), np.uint8)
        self.codes[missing] = CODE["no_value"]
        self.codes[self.ts < 0] = CODE["time_out_of_range"]
        self.codes[is_sum & (temporality != _CUMULATIVE)] = CODE["delta_temporality"]

    def _identify(self) -> None:
        """Series ids: a hash that no order of labels changes, over name, point labels and chosen resource labels."""
        self._chosen = self.resources.only(RESOURCE_LABELS)
        self._disjoint = not set(self.labels.names) & RESOURCE_LABELS
        if self._disjoint:
            identity = self.labels.pair_sums() + self._chosen.pair_sums()[self.resource]
        else:
            self.labels = joined(self._chosen.take(self.resource), self.labels)
            identity = self.labels.pair_sums()
        name = text_hashes(self._names)[self._metric]
        self.metric = (name >> np.uint64(32)).astype(np.uint32)
        self.series = pair_hashes(name, identity)


def _plain(array: Any, default: Any) -> NDArray[Any]:
    found: NDArray[Any] = pc.fill_null(array, default).to_numpy(zero_copy_only=False)
    return found


def _unsupported(metrics: Any, request_of_metric: I64, requests: int) -> I64:
    found = np.zeros(requests, np.int64)
    for kind in ("histogram", "exponential_histogram", "summary"):
        lengths = _plain(metrics.field(kind).field("data_points").value_lengths(), 0)
        found += np.bincount(request_of_metric, weights=lengths, minlength=requests).astype(np.int64)
    return found


def group_offsets(request: I64, requests: int) -> I64:
    """Offsets of each request's items in a batch that is ordered by request."""
    return offsets_of(np.bincount(request, minlength=requests))
