"""The answers of kubelet's pod-resources API, version 1, read defensively: k8s.io/kubelet/pkg/apis/podresources/v1.

Of all devices only NVIDIA GPUs are kept, as the device plugin, GKE's plugin and the driver for dynamic allocation (DRA)
name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from misstep.agent.otlp import read_varint

LIST = "/v1.PodResourcesLister/List"
ALLOCATABLE = "/v1.PodResourcesLister/GetAllocatableResources"
_FIELDS = 50_000
"""Fields of one answer; a node of 250 pods has some 10,000."""
_DEVICES, _PODS = 4096, 1024
_LENGTH = 256
_DRA_DRIVER = "gpu.nvidia.com"
_FORMS = (
    re.compile(r"(?P<key>GPU-[0-9A-Fa-f-]+)(?:::\d+)?"),
    re.compile(r"MIG-(?P<key>GPU-[0-9A-Fa-f-]+)/(?P<instance>\d+)/\d+(?:::\d+)?"),
    re.compile(r"(?P<key>MIG-[0-9A-Fa-f-]+)(?:::\d+)?"),
    re.compile(r"nvidia(?P<key>\d+)(?:/gi(?P<instance>\d+))?(?:/vgpu\d+)?"),
    re.compile(r"gpu-(?P<key>\d+)(?:-mig-.*)?"),
)


class Device(NamedTuple):
    """A GPU, or a share of one, by kubelet's name.

    Attributes:
        key: ``GPU-<uuid>``, ``MIG-<uuid>``, or the number in ``/dev/nvidia<number>``.
        instance: of MIG, where the name tells it; else 0.
    """

    key: str
    instance: int


class Given(NamedTuple):
    """A device that kubelet gave to a container."""

    namespace: str
    pod: str
    container: str
    device: Device


class Listing(NamedTuple):
    """What is given to whom.

    Attributes:
        pods: (namespace, name) of every pod, also of those without a GPU.
    """

    pods: frozenset[tuple[str, str]]
    given: frozenset[Given]


def device(name: str) -> Device | None:
    """The GPU that a device id means; None for all other devices."""
    for form in _FORMS:
        found = form.fullmatch(name)
        if found:
            return Device(found["key"], int(found.groupdict().get("instance") or 0))
    return None


def listing(answer: bytes) -> Listing:
    """Read a ListPodResourcesResponse.

    Raises:
        ValueError: it is none, or has more than any node.
    """
    reader = _Reader()
    pods: set[tuple[str, str]] = set()
    given: set[Given] = set()
    for pod in reader.messages(answer, 1):
        names = ["", ""]
        containers: list[memoryview] = []
        for number, value in reader.fields(pod):
            if number in (1, 2):
                names[number - 1] = _text(value)
            elif number == 3:
                containers.append(_part(value))
        name, namespace = names
        pods.add((namespace, name))
        for container in containers:
            given |= {Given(namespace, name, own, one) for own, one in _container(reader, container)}
        if len(given) > _DEVICES or len(pods) > _PODS:
            raise ValueError("there are more pods or devices in it than a node has")
    return Listing(frozenset(pods), frozenset(given))


def allocatable(answer: bytes) -> frozenset[Device]:
    """Read an AllocatableResourcesResponse: the GPUs that kubelet has to give and believes healthy.

    Raises:
        ValueError: as `listing`.
    """
    reader = _Reader()
    found: set[Device] = set()
    for devices in reader.messages(answer, 1):
        found |= _ids(reader, devices)
        if len(found) > _DEVICES:
            raise ValueError("there are more devices in it than a node has")
    return frozenset(found)


def _container(reader: _Reader, body: memoryview) -> list[tuple[str, Device]]:
    name = ""
    found: set[Device] = set()
    for number, value in reader.fields(body):
        if number == 1:
            name = _text(value)
        elif number == 2:
            found |= _ids(reader, _part(value))
        elif number == 5:
            found |= _claimed(reader, _part(value))
    return [(name, one) for one in found]


def _ids(reader: _Reader, body: memoryview) -> set[Device]:
    """The GPUs in ContainerDevices; the resource's name is anybody's choice, the ids are not."""
    return {
        one
        for number, value in reader.fields(body)
        if number == 2 and (one := device(_text(value))) is not None
    }


def _claimed(reader: _Reader, body: memoryview) -> set[Device]:
    """The GPUs in a DynamicResource."""
    found: set[Device] = set()
    for claim in reader.messages(body, 4):
        named = {number: _text(value) for number, value in reader.fields(claim) if number in (2, 4)}
        one = device(named.get(4, "")) if named.get(2) == _DRA_DRIVER else None
        if one is not None:
            found.add(one)
    return found


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, memoryview):
        return value
    raise ValueError("a number stands where a message should")


def _text(value: int | memoryview) -> str:
    return bytes(_part(value)[:_LENGTH]).decode("utf-8", "replace")


class _Reader:
    """Protobuf's wire format, with a bound on the work that one answer can make."""

    def __init__(self) -> None:
        self._left = _FIELDS

    def messages(self, body: bytes | memoryview, wanted: int) -> Iterator[memoryview]:
        """The messages in one field of a message."""
        return (_part(value) for number, value in self.fields(memoryview(body)) if number == wanted)

    def fields(self, body: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each field."""
        at, end = 0, len(body)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_FIELDS} fields")
            tag, at = read_varint(body, at)
            number, kind = tag >> 3, tag & 7
            if kind == 0:
                value, at = read_varint(body, at)
                yield number, value
                continue
            if kind == 2:
                size, at = read_varint(body, at)
            else:
                size = {1: 8, 5: 4}.get(kind, end + 1)
            if size > end - at:
                raise ValueError("it is cut short or is no such message")
            yield number, body[at : at + size]
            at += size
        if at > end:
            raise ValueError("it is cut short or is no such message")
