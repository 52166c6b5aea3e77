"""A kubelet: grpcio's server on a unix socket, with messages of the API as its .proto declares them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from misstep.agent.kubelet import resources

# k8s.io/kubelet/pkg/apis/podresources/v1/api.proto, what a node with GPUs fills: (number, name, type, repeated)
_MESSAGES: dict[str, list[tuple[int, str, Any, bool]]] = {
    "ListPodResourcesResponse": [(1, "pod_resources", "PodResources", True)],
    "PodResources": [(1, "name", str, False), (2, "namespace", str, False), (3, "containers", "ContainerResources", True)],
    "ContainerResources": [
        (1, "name", str, False), (2, "devices", "ContainerDevices", True), (3, "cpu_ids", int, True),
        (4, "memory", "ContainerMemory", True), (5, "dynamic_resources", "DynamicResource", True),
    ],
    "ContainerMemory": [(1, "memory_type", str, False), (2, "size", int, False)],
    "ContainerDevices": [(1, "resource_name", str, False), (2, "device_ids", str, True), (3, "topology", "TopologyInfo", False)],
    "TopologyInfo": [(1, "nodes", "NUMANode", True)],
    "NUMANode": [(1, "ID", int, False)],
    "DynamicResource": [(2, "claim_name", str, False), (3, "claim_namespace", str, False), (4, "claim_resources", "ClaimResource", True)],
    "ClaimResource": [
        (1, "cdi_devices", "CDIDevice", True), (2, "driver_name", str, False), (3, "pool_name", str, False), (4, "device_name", str, False),
    ],
    "CDIDevice": [(1, "name", str, False)],
    "AllocatableResourcesResponse": [
        (1, "devices", "ContainerDevices", True), (2, "cpu_ids", int, True), (3, "memory", "ContainerMemory", True),
    ],
}  # fmt: skip


def _classes() -> Mapping[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, own, kind, repeated in fields:
            one = message.field.add(name=own, number=number)
            one.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                one.type, one.type_name = field.TYPE_MESSAGE, f".v1.{kind}"
            else:
                one.type = field.TYPE_STRING if kind is str else field.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in _MESSAGES
    }


_CLASSES = _classes()


def container(name: str, *devices: str, resource: str = "nvidia.com/gpu", claims: tuple[tuple[str, str], ...] = ()) -> Any:  # fmt: skip
    """A container; claims are (driver, device)."""
    made = _CLASSES["ContainerResources"](name=name, cpu_ids=range(32, 64))
    made.memory.add(memory_type="memory", size=1 << 36)
    if devices:
        held = made.devices.add(resource_name=resource, device_ids=devices)
        held.topology.nodes.add(ID=1)
    for driver, device in claims:
        claim = made.dynamic_resources.add(claim_name="gpu", claim_namespace="ml").claim_resources.add(
            driver_name=driver, pool_name="n1", device_name=device
        )
        claim.cdi_devices.add(name=f"k8s.{driver}/claim=1-{device}")
    return made


def pod(namespace: str, name: str, *containers: Any) -> Any:
    """A pod."""
    return _CLASSES["PodResources"](namespace=namespace, name=name, containers=containers)


def listed(*pods: Any) -> bytes:
    """The answer to List."""
    return bytes(_CLASSES["ListPodResourcesResponse"](pod_resources=pods).SerializeToString())


def allocatable(*devices: str) -> bytes:
    """The answer to GetAllocatableResources."""
    made = _CLASSES["AllocatableResourcesResponse"](cpu_ids=range(64))
    made.devices.add(resource_name="nvidia.com/gpu", device_ids=devices)
    made.devices.add(resource_name="rdma/hca", device_ids=["mlx5_0"])
    return bytes(made.SerializeToString())


class Kubelet:
    """Answers as it is told; a call whose answer is a status code is refused with it.

    Attributes:
        answers: by method.
        calls: how often each was asked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, bytes | grpc.StatusCode] = {
            resources.LIST: listed(),
            resources.ALLOCATABLE: allocatable(),
        }
        self.calls = dict.fromkeys(self.answers, 0)
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", 1 << 28)])
        service = "v1.PodResourcesLister"
        self._server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler(
                service,
                {
                    method.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(self._handler(method))
                    for method in self.answers
                },
            ),
        ))  # fmt: skip
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def _handler(self, method: str) -> Callable[[bytes, Any], bytes]:
        def answer(request: bytes, context: Any) -> bytes:
            self.calls[method] += 1
            held = self.answers[method]
            if isinstance(held, grpc.StatusCode):
                context.abort(held, "no")
            return bytes(held)

        return answer

    def stop(self) -> None:
        """Go away."""
        self._server.stop(None).wait()


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    """A kubelet that gave nothing to anybody yet; the path of a socket must be short."""
    with tempfile.TemporaryDirectory() as folder:
        held = Kubelet(Path(folder) / "kubelet.sock")
        yield held
        held.stop()
