"""Which probes an agent has. A new source of evidence is one more line here."""

from __future__ import annotations

from misstep.agent.context import Context
from misstep.agent.exits import ExitProbe, Exits
from misstep.agent.gpu.probe import GpuProbe
from misstep.agent.host import HostProbe
from misstep.agent.host_slow import SlowHostProbe
from misstep.agent.infiniband import InfinibandProbe
from misstep.agent.kernel_log import KernelLogProbe
from misstep.agent.kubelet.allocations import Allocations
from misstep.agent.kubelet.probe import PodResourcesProbe
from misstep.agent.probe import Probe
from misstep.agent.processes import ProcessProbe
from misstep.agent.ray import assembly as ray
from misstep.agent.torch.communicators import Communicators
from misstep.agent.torch.logs import TrainingLogs
from misstep.agent.torch.probe import TorchProbe


def probes(context: Context) -> list[Probe]:
    """All probes, in the order in which a tick calls them; what later ones need of earlier ones stands in `Workload`."""
    exits = Exits()
    exit_probe = ExitProbe(exits)
    torch = TorchProbe(context)
    allocations = Allocations()
    return [
        exit_probe,
        ProcessProbe(context, exits, exit_probe),
        KernelLogProbe(context),
        GpuProbe(context, allocations),
        PodResourcesProbe(context, allocations),
        HostProbe(context),
        SlowHostProbe(context),
        InfinibandProbe(context),
        *ray.probes(context),
        torch,
        Communicators(context, torch.ranks),
        TrainingLogs(context),
    ]
