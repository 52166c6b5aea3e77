"""The probe of kubelet: asks it which GPU it gave to whom, on a thread, and hands the answers to `Allocations`."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from misstep.agent.context import Context
from misstep.agent.kubelet.allocations import Allocations
from misstep.agent.probe import OK, SourceState, failing, unsupported
from misstep.agent.records import Records
from misstep.agent.watched_thread import WatchedThread

if TYPE_CHECKING:
    from misstep.agent.kubelet.resources import Device, Listing

_EVERY = 30.0
_ABSENT = 5.0
"""Seconds between two looks for a kubelet that is not there."""
_SOON = 5.0
"""Seconds between two questions at least: kubelet answers all of a node's clients from one allowance."""
_MOUNT = "mount /var/lib/kubelet/pod-resources of the node into the agent's container"


class PodResourcesProbe:
    """Asks each 30 s, and soon after a process in a pod took a GPU that nobody was known to have been given.

    Where no Kubernetes is seen it says nothing and starts no thread.
    """

    source = "pod_resources"
    interval = 1.0
    follows_events = False

    def __init__(self, context: Context, allocations: Allocations) -> None:
        self._path = context.settings.agent.kubelet_socket
        self._allocations = allocations
        self._thread = WatchedThread("pod-resources", self._run, context.clock)
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._answer: tuple[Listing, frozenset[Device] | None] | None = None
        self._failed = ""

    def supported(self) -> SourceState:
        """Always: without Kubernetes there is merely nothing to say."""
        return OK

    def check(self, now: int, out: Records) -> SourceState | None:
        """Hand on the newest answer."""
        if not self._path:
            return None
        self.interval = _ABSENT
        try:
            os.stat(self._path)
        except FileNotFoundError:
            if not self._is_kubernetes():
                return None
            return unsupported(f"{self._path} is not there, so pods of GPUs are known by uid alone", _MOUNT)
        except OSError as error:
            return unsupported(f"{self._path} is shut to this user ({error.strerror}), so pods of GPUs are known by uid alone", "sudo misstep agent")  # fmt: skip
        self.interval = 1.0
        life = self._thread.watch()
        with self._lock:
            answer, self._answer = self._answer, None
            failed = self._failed
        if answer is not None:
            listing, offered = answer
            self._allocations.replace(listing, out)
            if offered is not None:
                self._allocations.offer(offered, out)
        else:
            self._allocations.refresh(out)
        if self._allocations.missed:
            self._allocations.missed = False
            self._wake.set()
        if life != OK:
            return life
        return failing(f"kubelet does not say who was given which GPU: {failed}") if failed else OK

    def close(self) -> None:
        """Let the thread end; a question that waits for its answer ends with it."""
        self._thread.close()
        self._wake.set()

    def _is_kubernetes(self) -> bool:
        """Whether this is a node, or a pod, or processes in pods hold GPUs."""
        kubelet = os.path.dirname(os.path.dirname(self._path))
        return self._allocations.in_pods or os.path.isdir(kubelet) or "KUBERNETES_SERVICE_HOST" in os.environ

    # -- the thread ----------------------------------------------------------------------------------
    def _run(self) -> None:
        from misstep.agent.kubelet.unary import CallError  # here: most machines have no kubelet

        while not self._thread.stopping.is_set():
            answer, failed = None, ""
            try:
                answer = self._ask()
            except (OSError, ValueError, CallError) as error:
                failed = str(error)
            with self._lock:
                self._answer, self._failed = answer or self._answer, failed
            self._thread.stopping.wait(_SOON)
            self._wake.wait(_EVERY - _SOON)
            self._wake.clear()

    def _ask(self) -> tuple[Listing, frozenset[Device] | None]:
        from misstep.agent.kubelet import resources, unary

        listing = resources.listing(unary.call(self._path, resources.LIST))
        try:
            offered = resources.allocatable(unary.call(self._path, resources.ALLOCATABLE))
        except unary.CallError as error:
            if error.status != unary.UNIMPLEMENTED:
                raise
            offered = None  # before Kubernetes 1.23
        return listing, offered
