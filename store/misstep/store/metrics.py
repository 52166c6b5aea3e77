"""Metrics of OTLP as columns: data points as they were sent, and the samples that are made of them.

A point of a gauge or a sum is one sample; one of a histogram or summary is a sample of each series that
`histograms` makes of it. A resource that says which service it is adds a sample of ``target_info``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from misstep.core import names
from misstep.store import histograms, otlp, targets
from misstep.store.attributes import Attributes, joined
from misstep.store.columns import I64, U64, lists, mix, owners, pair_hashes, text_hash, text_hashes
from misstep.store.exemplars import exemplar_table
from misstep.store.histograms import BUCKET, PLAIN, SUFFIXES, Rows, bound_text
from misstep.store.translation import metric_name
from misstep.store.verdict import CODE

RESOURCE_LABELS = frozenset(
    {names.HOST_NAME, names.HOST_ID, names.SERVICE, "service.instance.id", names.SESSION}
)
"""Attributes of the sender that become labels of its series, beside ``job`` and ``instance``, which are made of its
service's; a point's own label of that name counts more."""

STALE = 0x7FF0000000000002
"""Bits of the NaN with which Prometheus says that a series has ended; for points that are flagged "no recorded value"."""

KINDS = ("gauge", "sum", "sum_non_monotonic", "delta", "histogram", "summary")
"""What ``series.kind`` can say, by the codes used here."""

_GAUGE, _SUM, _SUM_NON_MONOTONIC, _DELTA, _HISTOGRAM, _SUMMARY = range(6)
_DELTA_TEMPORALITY, _CUMULATIVE = 1, 2
_NO_RECORDED_VALUE = 1
_TARGET = len(SUFFIXES)
"""Code of ``target_info`` among the suffixes."""

_FAMILIES = ("gauge", "sum", "histogram", "exponential_histogram", "summary")
_NUMBERS = 2
_LABELS = {BUCKET: "le", PLAIN: "quantile"}
_MAKERS: dict[str, Callable[[Any, NDArray[np.bool_]], tuple[Rows, NDArray[np.bool_]]]] = {
    "histogram": histograms.explicit,
    "exponential_histogram": histograms.exponential,
    "summary": histograms.summary,
}


class Metrics:
    """The points of a batch of requests, ordered by request: n points, and m samples made of them, ordered alike.

    Attributes:
        request: index of each point's request in the batch, shape (n,).
        resource: index of each point's resource, shape (n,).
        codes: why a point cannot be stored by its own shape (see `verdict`), 0 if it can; shape (n,).
        point: which point each sample is made of, ascending, shape (m,).
        metric: hash of the name of each sample's series, 32 bits, shape (m,).
        series: hash of name and labels, shape (m,).
        ts: Unix nanoseconds, shape (m,).
        value: as float64, shape (m,); integers beyond 2^53 lose their last digits.
    """

    request: I64
    resource: I64
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
        resources, per_request = lists(otlp.decode(otlp.METRICS, payloads))
        self.resources = Attributes.read(resources.field("resource").field("attributes"))
        self.resource_ids = mix(self.resources.pair_sums())
        scopes, per_resource = lists(resources.field("scope_metrics"))
        metrics, per_scope = lists(scopes.field("metrics"))
        self._resource_of_metric = owners(per_resource)[owners(per_scope)]
        self._names = metrics.field("name")
        self._units = metrics.field("unit")
        self._read_points(metrics, owners(per_request)[self._resource_of_metric])
        self._read_labels()
        self._make_samples()
        self._identify()

    def __len__(self) -> int:
        return len(self.request)

    def with_exemplars(self) -> I64:
        """Indices of points that bring some, each as often as it does."""
        return np.concatenate([np.zeros(0, np.int64), *(point for point, _ in self._exemplars())])

    def labels_per_point(self) -> I64:
        """How many labels each point's series have at most, resource labels included."""
        found: I64 = np.diff(self.labels.offsets) + self._is_derived
        return found + np.diff(self._chosen.offsets)[self.resource] if self._disjoint else found

    def longest_label(self) -> I64:
        """Bytes of the longest value among each point's labels."""
        own = self.labels.longest()
        return np.maximum(own, self._chosen.longest()[self.resource]) if self._disjoint else own

    def define(self, samples: I64, seq: I64) -> Any:
        """Rows of table `series` for the samples at the index, learned at journal positions `seq`."""
        is_target = self._suffix[samples] == _TARGET
        tables = [self._series_table(samples[~is_target], seq[~is_target])]
        if is_target.any():
            resource = self.resource[self.point[samples[is_target]]]
            labels = self._targets.take(self._target_of[resource])
            own = _Series("target_info", "target_info", KINDS[_GAUGE], "")
            tables.append(
                self._table(samples[is_target], seq[is_target], labels, own.columns(int(is_target.sum())))
            )
        if len(tables) == 1:
            return tables[0]
        place = np.argsort(np.argsort(is_target, kind="stable"))
        return pa.concat_tables(tables).take(pa.array(place))

    def exemplars(self, keep: NDArray[np.bool_], seq: I64) -> Any:
        """Rows of table `exemplars` for the points under the mask; `seq` of each point."""
        return exemplar_table(self, self._exemplars(), keep, seq)

    def bounds(self) -> NDArray[np.float64]:
        """For each sample the upper bound of its bucket; NaN where it is none."""
        return np.where(self._suffix == BUCKET, self._bound, np.nan)

    def _series_table(self, samples: I64, seq: I64) -> Any:
        point = self.point[samples]
        labels = self.labels.take(point)
        if self._disjoint:
            labels = joined(self._chosen.take(self.resource[point]), labels)
        bound = self._bound[samples]
        if not np.isnan(bound).all():
            labels = joined(labels, _bound_labels(self._suffix[samples], bound))
        return self._table(samples, seq, labels, self._named(samples))

    def _table(self, samples: I64, seq: I64, labels: Attributes, own: dict[str, Any]) -> Any:
        columns = {
            "series_id": pa.array(self.series[samples]),
            "metric": pa.array(self.metric[samples]),
            "labels": labels.maps(),
            "session": labels.column(names.SESSION),
            "resource": pa.array(self.resource_ids[self.resource[self.point[samples]]]),
            "seq": pa.array(seq),
        }
        return pa.table({name: {**columns, **own}[name] for name in _SERIES_COLUMNS})

    def _named(self, samples: I64) -> dict[str, Any]:
        """Name, Prometheus name, kind and unit of each sample's series; the loop runs over distinct ones."""
        point = self.point[samples]
        triples = np.stack([self._metric[point], self._suffix[samples], self._kind[point]], axis=1)
        distinct, inverse = np.unique(triples, axis=0, return_inverse=True)
        metric = pa.array(distinct[:, 0])
        counter = self._monotonic[distinct[:, 0]]
        found = []
        for name, unit, suffix, kind, grows in zip(
            self._names.take(metric).to_pylist(),
            self._units.take(metric).to_pylist(),
            distinct[:, 1].tolist(),
            distinct[:, 2].tolist(),
            counter.tolist(),
            strict=True,
        ):
            shape = "sum" if grows and kind in (_SUM, _DELTA) else KINDS[kind]
            prometheus = metric_name(name, unit, shape) + SUFFIXES[suffix].replace(".", "_")
            found.append(_Series(name + SUFFIXES[suffix], prometheus, KINDS[kind], unit))
        at = pa.array(inverse.ravel())
        columns = zip(*found, strict=True) if found else [()] * 4
        return {
            key: pa.array(list(words), pa.string()).take(at)
            for key, words in zip(_Series._fields, columns, strict=True)
        }

    def _read_points(self, metrics: Any, request_of_metric: I64) -> None:
        self._points = []
        parts = []
        for name in _FAMILIES:
            points, offsets = lists(metrics.field(name).field("data_points"))
            self._points.append(points)
            parts.append(owners(offsets))
        metric = np.concatenate(parts)
        family = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        order = np.argsort(request_of_metric[metric], kind="stable")
        self._in_order = bool((np.diff(order) == 1).all()) if len(order) else True
        self._order = order
        self._metric, self._family = metric[order], family[order]
        self.request = request_of_metric[self._metric]
        self.resource = self._resource_of_metric[self._metric]
        self._time = self._column("time_unix_nano").to_numpy(zero_copy_only=False).astype(np.int64)
        flags = self._column("flags").to_numpy(zero_copy_only=False)
        self._stale = (flags & _NO_RECORDED_VALUE) != 0
        self._judge(metrics)

    def _column(self, name: str) -> Any:
        """A field that all families have, in the order of points."""
        told = [points.field(name) for points in self._points if len(points)]
        whole = pa.concat_arrays(told) if told else self._points[0].field(name)
        return whole if self._in_order else whole.take(pa.array(self._order))

    def _judge(self, metrics: Any) -> None:
        kinds = np.array([_GAUGE, _SUM, _HISTOGRAM, _HISTOGRAM, _SUMMARY], np.int8)
        self._kind = kinds[self._family]
        self._is_derived = (self._family >= _NUMBERS).astype(np.int64)
        self.codes = np.zeros(len(self._time), np.uint8)
        self._monotonic = _plain(metrics.field("sum").field("is_monotonic"), False)
        for family in (1, 2, 3):
            if not len(self._points[family]):
                continue
            own = np.flatnonzero(self._family == family)
            told = _plain(metrics.field(_FAMILIES[family]).field("aggregation_temporality"), 0)
            temporality = told[self._metric[own]]
            if family == 1:
                self._kind[own[~self._monotonic[self._metric[own]]]] = _SUM_NON_MONOTONIC
            self._kind[own[temporality == _DELTA_TEMPORALITY]] = _DELTA
            unspecified = (temporality != _CUMULATIVE) & (temporality != _DELTA_TEMPORALITY)
            self.codes[own[unspecified]] = CODE["unspecified_temporality"]

    def _read_labels(self) -> None:
        """Labels of each point, and what the resource adds to them."""
        self.labels = Attributes.read(self._column("attributes"))
        reserved = set(_LABELS.values()) & set(self.labels.names)
        if reserved and self._is_derived.any():
            # What a histogram says under these names itself would name two series alike.
            owner = owners(self.labels.offsets)
            clash = np.isin(self.labels.codes, [self.labels.names.index(name) for name in reserved])
            self.labels = self.labels.select(~(clash & (self._is_derived[owner] > 0)))
        self._identities, self._targets, self._target_of = targets.read(self.resources)
        self._chosen = joined(self.resources.only(RESOURCE_LABELS), self._identities)
        self._disjoint = not set(self.labels.names) & (RESOURCE_LABELS | targets.LABELS)
        if not self._disjoint:
            self.labels = joined(self._chosen.take(self.resource), self.labels)

    def _make_samples(self) -> None:
        blocks = [self._numbers()]
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        first = len(self._points[0]) + len(self._points[1])
        for family in range(_NUMBERS, len(_FAMILIES)):
            points = self._points[family]
            if len(points):
                own = place[first : first + len(points)]
                rows, bad = _MAKERS[_FAMILIES[family]](points, self._stale[own])
                blocks.append(rows._replace(point=own[rows.point]))
                self.codes[own[bad & (self.codes[own] == 0)]] = CODE["bucket_shape"]
            first += len(points)
        blocks.append(self._target_rows())
        self.codes[self._time < 0] = CODE["time_out_of_range"]
        told = [block for block in blocks if len(block.point)] or blocks[:1]
        rows = blocks[0] if len(told) == 1 and told[0] is blocks[0] else Rows.joined(*told).sorted()
        self.point, self._suffix, self._bound, self.value = rows
        self.ts = self._time[self.point]
        self.value.view(np.uint64)[self._stale[self.point]] = STALE

    def _numbers(self) -> Rows:
        """Points of gauges and sums, each its own sample."""
        of_number = np.flatnonzero(self._family < _NUMBERS)
        told = [points for points in self._points[:_NUMBERS] if len(points)] or self._points[:1]
        doubles, integers = (
            pa.concat_arrays([p.field(name) for p in told]) for name in ("as_double", "as_int")
        )
        value = pc.coalesce(doubles, pc.cast(integers, pa.float64(), safe=False))
        if not self._in_order:
            value = value.take(pa.array(self._order[of_number]))
        missing = value.is_null().to_numpy(zero_copy_only=False) & ~self._stale[of_number]
        wrong = of_number[missing & (self.codes[of_number] == 0)]
        self.codes[wrong] = CODE["no_value"]
        values = np.array(pc.fill_null(value, 0.0).to_numpy(zero_copy_only=False))
        return Rows(of_number, np.full(len(values), PLAIN, np.int8), np.full(len(values), np.nan), values)

    def _target_rows(self) -> Rows:
        """One sample of ``target_info`` with the first point of each resource that is a target."""
        resources, first = np.unique(self.resource, return_index=True)
        point = first[self._target_of[resources] >= 0]
        count = len(point)
        return Rows(point, np.full(count, _TARGET, np.int8), np.full(count, np.nan), np.ones(count))

    def _identify(self) -> None:
        """Series ids: a hash that no order of labels changes, over name, own labels and chosen resource labels."""
        identity = self.labels.pair_sums()
        if self._disjoint:
            identity = identity + self._chosen.pair_sums()[self.resource]
        of_sample = identity[self.point]
        bounded = np.flatnonzero(~np.isnan(self._bound))
        if len(bounded):
            of_sample[bounded] += _bound_hashes(self._suffix[bounded], self._bound[bounded])
        name = self._name_hashes()
        told = np.flatnonzero(self._suffix == _TARGET)
        if len(told):
            which = self._target_of[self.resource[self.point[told]]]
            of_sample[told] = self._targets.pair_sums()[which]
            name[told] = text_hash("target_info")
        self.metric = (name >> np.uint64(32)).astype(np.uint32)
        self.series = pair_hashes(name, of_sample)

    def _name_hashes(self) -> U64:
        """Hash of the name of each sample's series."""
        metric = self._metric[self.point]
        found = text_hashes(self._names)[metric]
        for code in range(1, len(SUFFIXES)):
            at = np.flatnonzero(self._suffix == code)
            if len(at):
                suffixed = pc.binary_join_element_wise(self._names, SUFFIXES[code], "")
                found[at] = text_hashes(suffixed)[metric[at]]
        return found

    def _exemplars(self) -> list[tuple[I64, Any]]:
        """For each family that can have them: the point of each exemplar, and the exemplars."""
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        first, found = 0, []
        for points, family in zip(self._points, _FAMILIES, strict=True):
            if len(points) and family != "summary":
                own, offsets = lists(points.field("exemplars"))
                if len(own):
                    found.append((place[first + owners(offsets)], own))
            first += len(points)
        return found


class _Series(NamedTuple):
    name: str
    prometheus: str
    kind: str
    unit: str

    def columns(self, count: int) -> dict[str, Any]:
        """The same for so many rows."""
        return {key: pa.array([word] * count, pa.string()) for key, word in self._asdict().items()}


_SERIES_COLUMNS = (
    "series_id", "metric", "name", "labels", "kind", "unit", "session", "resource", "seq", "prometheus",
)  # fmt: skip


def _bound_labels(suffix: NDArray[np.int8], bound: NDArray[np.float64]) -> Attributes:
    """Label ``le`` or ``quantile`` for each row that has a bound."""
    told = ~np.isnan(bound)
    distinct, inverse = np.unique(bound[told], return_inverse=True)
    words = pa.array(list(map(bound_text, distinct.tolist())), pa.string())
    codes = (suffix[told] == BUCKET).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(told)]).astype(np.int64)
    return Attributes(offsets, codes, [_LABELS[PLAIN], _LABELS[BUCKET]], words.take(pa.array(inverse)))


def _bound_hashes(suffix: NDArray[np.int8], bound: NDArray[np.float64]) -> U64:
    """What the label of each bound adds to the identity of its series."""
    distinct, inverse = np.unique(bound, return_inverse=True)
    words = np.fromiter((text_hash(bound_text(b)) for b in distinct.tolist()), np.uint64, len(distinct))
    keys = np.array([text_hash(_LABELS[PLAIN]), text_hash(_LABELS[BUCKET])], np.uint64)
    return pair_hashes(keys[(suffix == BUCKET).astype(np.int64)], words[inverse])


def _plain(array: Any, default: Any) -> NDArray[Any]:
    found: NDArray[Any] = pc.fill_null(array, default).to_numpy(zero_copy_only=False)
    return found
