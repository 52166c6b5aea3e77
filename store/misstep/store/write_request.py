"""The message of Prometheus remote write 1.0: https://prometheus.io/docs/specs/prw/remote_write_spec/.

Metadata of metric families is left out: it comes in requests of its own, minutes apart.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

NAME = "prometheus.WriteRequest"

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {"double": _Field.TYPE_DOUBLE, "int64": _Field.TYPE_INT64, "string": _Field.TYPE_STRING}
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "WriteRequest": (("timeseries", 1, "*TimeSeries"),),
    "TimeSeries": (
        ("labels", 1, "*Label"),
        ("samples", 2, "*Sample"),
        ("exemplars", 3, "*Exemplar"),
        ("histograms", 4, "*Histogram"),
    ),
    "Label": (("name", 1, "string"), ("value", 2, "string")),
    "Sample": (("value", 1, "double"), ("timestamp", 2, "int64")),
    "Exemplar": (("labels", 1, "*Label"), ("value", 2, "double"), ("timestamp", 3, "int64")),
    "Histogram": (("timestamp", 15, "int64"),),
}
"""Fields as (name, number, type); a star stands for a repeated message."""


def file() -> Any:
    """The descriptor of the file."""
    found = descriptor_pb2.FileDescriptorProto(
        name="misstep/prometheus_remote_write.proto", package="prometheus", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = found.message_type.add(name=name)
        for field, number, kind in fields:
            own = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if kind.startswith("*"):
                own.label, own.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
                own.type_name = ".prometheus." + kind[1:]
            else:
                own.type = _KINDS[kind]
    return found


@functools.cache
def message() -> Any:
    """The message's class."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(NAME))
