"""Which GPU kubelet gave to which pod: its names for GPUs joined with the driver's, and its pods with processes.

Kubelet knows pods by name and GPUs by uuid, a process's cgroup knows its pod by uid: they meet where a process of the
pod holds a GPU that only this pod was given, or one whose host name, which is its pod's name, says which of several.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from misstep.agent import owners
from misstep.agent.otlp import Value
from misstep.agent.records import INFO, WARNING, Records
from misstep.agent.workload import Process
from misstep.core import names

if TYPE_CHECKING:
    from misstep.agent.kubelet.resources import Device, Given, Listing


class Place(NamedTuple):
    """A GPU, or an instance of MIG on it.

    Attributes:
        entity: of the instance where it is one.
        pci: address of the GPU.
        instance: 0 for a whole GPU.
    """

    entity: str
    pci: str
    instance: int


class Allocations:
    """Shared by the probes of GPUs and of kubelet, on the agent's main thread.

    Attributes:
        in_pods: whether a process in a pod was seen to hold a GPU.
        missed: such a process came, and to whom kubelet gave its GPU is not known.
    """

    def __init__(self) -> None:
        self.in_pods = self.missed = False
        self._places: dict[str, Place] = {}
        self._of_gpu: dict[str, list[tuple[int, Given]]] = {}
        self._pods: frozenset[tuple[str, str]] = frozenset()
        self._given: frozenset[Given] = frozenset()
        self._names: set[str] = set()
        self._offered: frozenset[str] | None = None
        self._told: dict[Given, tuple[Place, str]] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._claims: dict[tuple[str, str], set[str]] = {}

    def know(self, key: str, place: Place) -> None:
        """The driver knows the GPU of that uuid or number."""
        self._places[key] = place
        self._arrange()

    def claim(self, pci: str, instance: int, process: Process) -> None:
        """A process holds a GPU; to be told of all that do before `owner` is asked for one."""
        found = self._meant(pci, instance, process)
        if found is not None:
            self._claims.setdefault((found.namespace, found.pod), set()).add(_pod(process.cgroup))

    def owner(self, pci: str, instance: int, process: Process) -> Given | None:
        """To whom kubelet gave the GPU that a process holds; None outside of pods and where it is in doubt."""
        found = self._meant(pci, instance, process)
        if found is None:
            return None
        key = (found.namespace, found.pod)
        if len(self._claims.get(key, ())) > 1:
            return None  # a pod that was given none uses another's
        self._uids[key] = _pod(process.cgroup)
        return found

    def _meant(self, pci: str, instance: int, process: Process) -> Given | None:
        """The only allocation that a process's GPU and host name fit."""
        if not _pod(process.cgroup):
            return None
        self.in_pods = True
        held = [given for own, given in self._of_gpu.get(pci, ()) if own in (0, instance)]
        host = process.environment.get("HOSTNAME", "")
        if host in self._names:
            held = [one for one in held if one.pod == host]
        if len({(one.namespace, one.pod) for one in held}) != 1:
            return None
        found = min(held)
        return found if len({one.container for one in held}) == 1 else found._replace(container="")

    def _arrange(self) -> None:
        self._of_gpu = {}
        for given in self._given:
            place = self._place(given.device)
            if place is not None:
                self._of_gpu.setdefault(place.pci, []).append((place.instance, given))

    def replace(self, listing: Listing, out: Records) -> None:
        """Take what kubelet says now."""
        (self._pods, self._given), self._claims = listing, {}
        self._names = {name for _, name in listing.pods}
        self._arrange()
        self._uids = {key: uid for key, uid in self._uids.items() if key in listing.pods}
        for given in sorted(set(self._told) - listing.given):
            place, uid = self._told.pop(given)
            self._tell("returned", given, place, uid, out)
        self.refresh(out)

    def refresh(self, out: Records) -> None:
        """Tell of those of which more is known than was told."""
        for given in sorted(self._given):
            place = self._place(given.device)
            if place is None:
                continue
            known = (place, self._uids.get((given.namespace, given.pod), ""))
            if self._told.get(given) != known:
                self._told[given] = known
                self._tell("given", given, *known, out)

    def offer(self, devices: frozenset[Device], out: Records) -> None:
        """Take which GPUs kubelet has to give; one that it no longer has is one that its device plugin found unhealthy."""
        places = [place for one in devices if (place := self._place(one)) is not None]
        now = frozenset(place.pci for place in places)
        before, self._offered = self._offered, now
        if before is None:
            return
        whole = {place.pci: place for place in self._places.values() if not place.instance}
        for state, changed in (("withdrawn", before - now), ("offered", now - before)):
            for pci in sorted(changed & set(whole)):
                out.event(
                    "hw.gpu.allocation", entity=whole[pci].entity, state=state, severity=WARNING if state == "withdrawn" else INFO,
                    body="kubelet has it to give again" if state == "offered" else "kubelet no longer has it to give: its device plugin counts it as unhealthy, or is gone",
                    attributes={names.HW_ID: pci},
                )  # fmt: skip

    def _place(self, device: Device) -> Place | None:
        place = self._places.get(device.key)
        if place is None or not device.instance:
            return place
        return place._replace(entity=f"{place.entity}/{device.instance}", instance=device.instance)

    @staticmethod
    def _tell(state: str, given: Given, place: Place, uid: str, out: Records) -> None:
        out.event(
            "hw.gpu.allocation", entity=place.entity, state=state,
            attributes={names.HW_ID: place.pci, **attributes(given), names.POD: uid, names.POD_ENTITY: uid and f"pod/{uid}"},
        )  # fmt: skip


@lru_cache(maxsize=256)
def _pod(cgroup: str) -> str:
    return owners.owner(cgroup).get(names.POD, "")


def attributes(given: Given) -> dict[str, Value]:
    """Names of pod and container."""
    return {
        names.NAMESPACE: given.namespace,
        names.POD_NAME: given.pod,
        names.CONTAINER_NAME: given.container,
    }
