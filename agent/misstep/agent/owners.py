"""Whose a process is by its cgroup: pod, container, Slurm job.

Docker, containerd and CRI-O write a container's id into the path, with systemd as ``<runtime>-<id>.scope``, else bare or
behind ``<slice>:<runtime>:``; kubelet the pod's uid, its dashes as underscores where systemd makes the slice. Versions 1
and 2 of cgroups have the same paths.
"""

from __future__ import annotations

import re

from misstep.core import names

_POD = re.compile(
    r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})"
)
"""A static pod's uid is the hash of its file, without dashes."""
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_SLURM = re.compile(r"/job_(\d+)(?:/step_(\w+))?")


def entities(path: str) -> dict[str, str]:
    """Container and pod of a cgroup as ``kind/id``, by the attributes that relate a process to them."""
    found = owner(path)
    return {
        key: f"{kind}/{found[own]}"
        for key, kind, own in (
            (names.CONTAINER_ENTITY, "container", names.CONTAINER),
            (names.POD_ENTITY, "pod", names.POD),
        )
        if own in found
    }


def owner(path: str) -> dict[str, str]:
    """What a cgroup's path tells, as attributes; empty for a process outside of containers and jobs."""
    found: dict[str, str] = {}
    # The innermost: a node may be a container itself.
    pods, containers, slurm = _POD.findall(path), _CONTAINER.findall(path), _SLURM.search(path)
    if pods:
        found[names.POD] = pods[-1].replace("_", "-")
    if containers:
        found[names.CONTAINER] = containers[-1]
    if slurm:
        found[names.SLURM_JOB] = slurm[1]
        if slurm[2]:
            found[names.SLURM_STEP] = slurm[2]
    return found
