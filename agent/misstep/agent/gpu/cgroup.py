"""Whose a process is by its cgroup: pod, container, Slurm job."""

from __future__ import annotations

import re

from misstep.core import names

_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_CONTAINER = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_SLURM = re.compile(r"/job_(\d+)(?:/step_(\w+))?")


def owner(path: str) -> dict[str, str]:
    """What a cgroup's path tells, as attributes; empty for a process outside of containers and jobs."""
    found: dict[str, str] = {}
    pod, container, slurm = _POD.search(path), _CONTAINER.search(path), _SLURM.search(path)
    if pod:
        found[names.POD] = pod[1].replace("_", "-")
    if container:
        found[names.CONTAINER] = container[1]
    if slurm:
        found[names.SLURM_JOB] = slurm[1]
        if slurm[2]:
            found[names.SLURM_STEP] = slurm[2]
    return found
