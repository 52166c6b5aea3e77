"""``job``, ``instance`` and ``target_info`` of a resource, the way Prometheus' OTLP receiver makes them.

``job`` is the service's name, behind its namespace and a slash if it has one, ``instance`` its instance id. A
resource that has either, and more to tell than that, is a target: ``target_info`` tells the rest.
Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ ("Resource Attributes").
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from misstep.core import names
from misstep.store.attributes import Attributes, joined
from misstep.store.columns import I64

LABELS = frozenset({"job", "instance"})

_NAMESPACE, _INSTANCE = "service.namespace", "service.instance.id"
_IDENTITY = frozenset({names.SERVICE, _NAMESPACE, _INSTANCE})


def read(resources: Attributes) -> tuple[Attributes, Attributes, I64]:
    """What to add to the labels of each resource's series, and the labels of its ``target_info``.

    Returns:
        Labels ``job`` and ``instance`` of each resource; labels of ``target_info``, of each resource; and for each
        resource its index there, or -1 for one that is no target.
    """
    nothing = np.full(len(resources), -1, np.int64)
    if not _IDENTITY & set(resources.names):
        empty = Attributes(
            np.zeros(len(resources) + 1, np.int64), np.zeros(0, np.int32), [], pa.array([], pa.string())
        )
        return empty, empty, nothing
    service, space = resources.column(names.SERVICE), resources.column(_NAMESPACE)
    job = pc.if_else(
        pc.and_(pc.not_equal(space, ""), pc.not_equal(service, "")),
        pc.binary_join_element_wise(space, service, "/"),
        service,
    )
    found = Attributes.of({"job": job, "instance": resources.column(_INSTANCE)})
    rest = resources.without(_IDENTITY)
    told = (np.diff(found.offsets) > 0) & (np.diff(rest.offsets) > 0)
    return found, joined(rest, found), np.where(told, np.arange(len(resources)), nothing)
