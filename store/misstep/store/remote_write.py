"""Samples of Prometheus remote write as columns: one item per sample, each its own sample of a series."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core import names
from misstep.store import otlp
from misstep.store.attributes import Attributes
from misstep.store.columns import I64, U64, encode, lists, owners, pair_hashes, text_hashes
from misstep.store.verdict import CODE

_NAME = "__name__"
_MILLISECOND = 1_000_000
_LATEST = (1 << 63) // _MILLISECOND - 1
_FROM_SUFFIX = (("_total", "sum"), ("_bucket", "histogram"))
"""What version 1 tells of a series' kind; everything else is a gauge to us."""


class RemoteWrite:
    """The samples of a batch of requests, ordered by request; attributes as in `metrics.Metrics`.

    Attributes:
        native: per request, how many samples of native histograms it brings, which are not stored.
    """

    request: I64
    codes: NDArray[np.uint8]
    point: I64
    metric: NDArray[np.uint32]
    series: U64
    ts: I64
    value: NDArray[np.float64]

    def __init__(self, payloads: list[bytes]) -> None:
        """Decode.

        Raises:
            UndecodableError: one of them is damaged.
        """
        own, per_request = lists(otlp.decode(otlp.REMOTE_WRITE, payloads))
        self._request_of_series = owners(per_request)
        samples, per_series = lists(own.field("samples"))
        self._of = owners(per_series)
        self._exemplar_lists = own.field("exemplars")
        native = pc.fill_null(own.field("histograms").value_lengths(), 0).to_numpy(zero_copy_only=False)
        self.native = np.bincount(self._request_of_series, native, len(payloads)).astype(np.int64)
        labels = labels_of(own.field("labels"))
        self._names = labels.column(_NAME)
        self.labels = labels.without(frozenset({_NAME}))
        self.request = self._request_of_series[self._of]
        self.point = np.arange(len(self._of))
        ms = samples.field("timestamp").to_numpy(zero_copy_only=False)
        self.ts = np.clip(ms, 0, _LATEST) * _MILLISECOND
        self.value = samples.field("value").to_numpy(zero_copy_only=False)
        name = text_hashes(self._names)
        self._metric_of_series = (name >> np.uint64(32)).astype(np.uint32)
        self._ids = pair_hashes(name, self.labels.pair_sums())
        self.metric, self.series = self._metric_of_series[self._of], self._ids[self._of]
        self.codes = np.zeros(len(self._of), np.uint8)
        nameless = pc.equal(self._names, "").to_numpy(zero_copy_only=False)
        self.codes[nameless[self._of]] = CODE["no_name"]
        self.codes[(ms < 0) | (ms > _LATEST)] = CODE["time_out_of_range"]

    def __len__(self) -> int:
        return len(self.request)

    def labels_per_point(self) -> I64:
        """How many labels each sample's series has, name excluded."""
        found: I64 = np.diff(self.labels.offsets)[self._of]
        return found

    def longest_label(self) -> I64:
        """Bytes of the longest value among each sample's labels, name included."""
        of_name = pc.binary_length(self._names).to_numpy(zero_copy_only=False)
        longest: I64 = np.maximum(self.labels.longest(), of_name)[self._of]
        return longest

    def define(self, samples: I64, seq: I64) -> Any:
        """Rows of table `series` for the samples at the index, learned at journal positions `seq`."""
        series = self._of[samples]
        labels, name = self.labels.take(series), self._names.take(pa.array(series))
        codes, words = encode(name)
        kinds = pa.array(list(map(_kind, words)), pa.string()).take(pa.array(codes))
        empty = pa.array([""] * len(samples), pa.string())
        return pa.table(
            {
                "series_id": pa.array(self.series[samples]),
                "metric": pa.array(self.metric[samples]),
                "name": name,
                "labels": labels.maps(),
                "kind": kinds,
                "unit": empty,
                "session": labels.column(names.SESSION),
                "resource": pa.array(np.zeros(len(samples), np.uint64)),
                "seq": pa.array(seq),
                "prometheus": name,
            }
        )

    def exemplars(self, keep: NDArray[np.bool_], seq: I64) -> Any:
        """Rows of table `exemplars` of the series that have a sample under the mask; None if there are none."""
        found, offsets = lists(self._exemplar_lists)
        if not len(found):
            return None
        stored = np.zeros(len(offsets) - 1, bool)
        position = np.zeros(len(offsets) - 1, np.int64)
        stored[self._of[keep]] = True
        position[self._of] = seq
        owner = owners(offsets)
        ms = found.field("timestamp").to_numpy(zero_copy_only=False)
        at = np.flatnonzero(stored[owner] & (ms >= 0) & (ms <= _LATEST))
        own, owner = found.take(pa.array(at)), owner[at]
        labels = labels_of(own.field("labels"))
        rest = labels.without(frozenset({"trace_id", "span_id"}))
        return pa.table(
            {
                "series_id": pa.array(self._ids[owner]),
                "metric": pa.array(self._metric_of_series[owner]),
                "ts": pa.array(ms[at] * _MILLISECOND),
                "value": own.field("value"),
                "trace_id": _from_hex(labels.column("trace_id")),
                "span_id": _from_hex(labels.column("span_id")),
                "labels": rest.maps(),
                "seq": pa.array(position[owner]),
            }
        )


def labels_of(array: Any) -> Attributes:
    """From a list array of ``Label``; an empty value is no label."""
    items, offsets = lists(array)
    codes, words = encode(items.field("name"))
    text = items.field("value")
    return Attributes.distinct(offsets, codes, words, text).select_text()


def _from_hex(array: Any) -> Any:
    codes, words = encode(array)
    return pa.array(list(map(_bytes, words)), pa.binary()).take(pa.array(codes))


def _bytes(word: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        return b""


def _kind(name: str) -> str:
    return next((kind for suffix, kind in _FROM_SUFFIX if name.endswith(suffix)), "gauge")
