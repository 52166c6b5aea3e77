"""Which processes belong to a workload, and as what: Ray's daemons, workers and drivers, and ranks of torch."""

from __future__ import annotations

import os.path
from collections.abc import Sequence

from misstep.agent.ray.redaction import HIDDEN, command, is_secret

WANTED = frozenset((
    "RAY_JOB_ID", "RAY_NODE_ID", "RAY_RAYLET_PID", "RAY_CLOUD_INSTANCE_ID", "RAY_ADDRESS", "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH", "RAY_enable_ray_event", "RAY_enable_core_worker_ray_event_to_aggregator",
    "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR", "MISSTEP_STARTED_BY", "MISSTEP_TORCH_FOLDER",
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_ERROR_FILE",
    "NCCL_DEBUG_FILE", "NCCL_RAS_ADDR", "NCCL_RAS_ENABLE",
    "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "HOSTNAME",
))  # fmt: skip
"""Environment variables that are read; names, ids and switches, no secrets."""

_SYSTEM = (
    "/ray/dashboard/", "/ray/_private/log_monitor.py", "/ray/_private/runtime_env/", "/ray/autoscaler/",
    "ray.util.client.server", "ray-dashboard-",
)  # fmt: skip
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
_ARGUMENT, _COMMAND = 200, 1000


def role(name: str, words: Sequence[str]) -> str:
    """What a process is by its name and command line; empty when these do not say.

    Args:
        name: the kernel's, at most 15 bytes.
        words: its arguments; Ray's workers have one, their title.
    """
    first = os.path.basename(words[0]) if words else name
    if first in ("raylet", "gcs_server"):
        return "raylet" if first == "raylet" else "gcs"
    if words and words[0].startswith("ray::"):
        return "ray_system" if words[0].startswith(_AGENTS) else "ray_worker"
    for word in words[:6]:
        if word.endswith("/default_worker.py"):
            return "ray_worker"
        if any(part in word for part in _SYSTEM):
            return "ray_system"
    if is_ray_start(words):
        return "ray_system"
    return ""


def is_ray_start(words: Sequence[str]) -> bool:
    """Whether this is the `ray start` command, which stays as a raylet's parent with ``--block``."""
    return "start" in words[:5] and any(
        word in ("ray.scripts.scripts", "ray.scripts") or os.path.basename(word) == "ray"
        for word in words[:4]
    )


def ray_session_name(words: Sequence[str]) -> str:
    """``session_…`` from the arguments of Ray's daemons and young workers, or an empty string."""
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option.lstrip("-").replace("-", "_") in (
            "session_name",
            "session_dir",
            "log_dir",
            "logs_dir",
        ):
            for part in value.split("/"):
                if part.startswith("session_") and part != "session_latest":
                    return part
    return ""


def cluster_name(address: str) -> str:
    """The cluster in the address of Ray's event stream, ``…/v1/ray/<cluster>/events``, or an empty string."""
    parts = address.partition("?")[0].rstrip("/").split("/")
    return parts[-2] if len(parts) >= 4 and parts[-1] == "events" and parts[-3] == "ray" else ""


def shown(words: Sequence[str]) -> str:
    """A command line fit to travel: secrets hidden, long arguments and long lines cut."""
    out: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = is_secret(name.lstrip("-"))
        if hide and not word.startswith("-"):
            out.append(HIDDEN)
        elif equals and secret:
            out.append(f"{name}={HIDDEN}")
        else:
            out.append(word if len(word) <= _ARGUMENT else word[:_ARGUMENT] + "…")
        hide = secret and not equals and word.startswith("-")
    text = command(" ".join(out))
    return text if len(text) <= _COMMAND else text[:_COMMAND] + "…"
