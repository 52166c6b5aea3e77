"""What the command lines, environments and files of Ray's own processes say of a cluster.

Flags as Ray 2.60 passes them (ray/_private/services.py); older ones pass the same names. `/tmp/ray/session_latest`
is not asked: several clusters can run, each in a folder of its own.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

EVENTS_SINCE = (2, 54)
"""First Ray whose event stream has the shapes that we read (tasks, actors, jobs, nodes)."""
WORKERS_SINCE = (2, 58)
"""First Ray that sends worker events, which say how a worker died."""

_IN_WORKER_COMMAND = {
    "gcs": re.compile(r"--gcs-address=(\S+)"),
    "dashboard": re.compile(r"--webui=(\S+)"),
    "session_name": re.compile(r"--session-name=(\S+)"),
}
_DASHBOARD_NEEDS = ("aiohttp", "aiohttp_cors", "grpc", "opencensus", "prometheus_client", "pydantic")
"""ray/dashboard/optional_deps.py; without one of them no event is sent, and nothing says so."""


class RayProcess(NamedTuple):
    """A raylet or a GCS server, as read when it was found.

    Attributes:
        node: id of its Ray node, hex; empty where an old Ray does not pass it.
        address: IP of the node, as Ray has it.
        node_name: what `ray start --node-name` said, or empty.
        session: Ray's name of the session, ``session_<date>_<time>_<pid>``.
        folder: the session's folder.
        dashboard: ``http://host:port``, or empty.
        events: where Ray sends its events, or empty.
        stream: whether the variables that make it send them are set.
        started_by: ``run``, ``env`` or ``found``.
        token: ``(mode, token file)`` that it was started with, each may be empty. Never the token.
        user: who owns it.
        version: of Ray, or empty.
        extra: ``yes``, ``no`` or ``unknown``: whether what ``ray[default]`` brings is installed.
    """

    pid: int
    node: str
    address: str
    node_name: str
    session: str
    folder: str
    gcs: str
    dashboard: str
    events: str
    stream: bool
    started_by: str
    token: tuple[str, str]
    user: int
    version: str
    extra: str

    @property
    def cluster(self) -> str:
        """Name of the cluster in the address to which events go, or ``ray``."""
        match = re.fullmatch(r"/v1/ray/([^/]+)/events", urlsplit(self.events).path)
        return match.group(1) if match else "ray"

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor of the version; (0, 0) where it is unknown."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def read(pid: int, *, root: str = "/proc") -> RayProcess | None:
    """Read a raylet or GCS server; None when it is gone or is neither."""
    try:
        with open(f"{root}/{pid}/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").split("\0")
        user = os.stat(f"{root}/{pid}").st_uid
    except OSError:
        return None
    flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    worker = flags.get("python_worker_command", "")
    for key, pattern in _IN_WORKER_COMMAND.items():
        match = pattern.search(worker)
        if match and match.group(1) != "None":
            flags.setdefault(key, match.group(1))
    folder = (flags.get("session_dir") or flags.get("session-dir") or "").rstrip("/")
    session = flags.get("session-name") or flags.get("session_name") or os.path.basename(folder)
    if not session.startswith("session_"):
        return None
    environ = environment(pid, root=root)
    package = _package(pid, words[0], root)
    return RayProcess(
        pid=pid,
        node=flags.get("node_id") or flags.get("node-id") or "",
        address=flags.get("node_ip_address") or flags.get("node-ip-address") or "",
        node_name=flags.get("node-name") or flags.get("node_name") or "",
        session=session,
        folder=folder or os.path.dirname((flags.get("log_dir") or "").rstrip("/")),
        gcs=flags.get("gcs-address") or flags.get("gcs") or "",
        dashboard=_http(flags.get("dashboard", "")),
        events=environ.get("RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR", ""),
        stream=_on(environ.get("RAY_enable_ray_event")) and _on(environ.get("RAY_enable_core_worker_ray_event_to_aggregator")),
        started_by=environ.get("MISSTEP_STARTED_BY") or "found",
        token=(environ.get("RAY_AUTH_MODE", ""), _token_file(environ)),
        user=user,
        version=_version(package),
        extra=_extra(package),
    )  # fmt: skip


def environment(pid: int, *, root: str = "/proc") -> dict[str, str]:
    """The environment that a process was started with; empty where we may not read it."""
    try:
        with open(f"{root}/{pid}/environ", "rb") as file:
            pairs = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def is_hooked(pid: int, *, root: str = "/proc") -> bool:
    """Whether a process was started with `hook/sitecustomize.py` on its path."""
    held = environment(pid, root=root)
    return (
        "MISSTEP_REPORT" in held
        and held.get("MISSTEP_HOOK") != "0"
        and "/agent/hook" in held.get("PYTHONPATH", "")
    )


def find(*, root: str = "/proc") -> list[int]:
    """Pids of all raylets and GCS servers, by walking the process table."""
    found = []
    for entry in os.listdir(root):
        if entry.isdecimal():
            try:
                with open(f"{root}/{entry}/comm", "rb") as file:
                    name = file.read(16)
            except OSError:
                continue
            if name in (b"raylet\n", b"gcs_server\n"):
                found.append(int(entry))
    return found


def is_gcs(pid: int, *, root: str = "/proc") -> bool:
    """Whether a pid is a GCS server."""
    try:
        with open(f"{root}/{pid}/comm", "rb") as file:
            return file.read(16) == b"gcs_server\n"
    except OSError:
        return False


def started_at(session: str) -> tuple[str, int]:
    """(``2026-11-20_09-49-30_276594``, pid of the process that started it; 0 where the name does not say)."""
    stem, _, pid = session.removeprefix("session_").rpartition("_")
    return stem, int(pid) if pid.isdecimal() else 0


def _token_file(environ: dict[str, str]) -> str:
    home = environ.get("HOME", "")
    return environ.get("RAY_AUTH_TOKEN_PATH") or (f"{home}/.ray/auth_token" if home else "")


def _on(value: str | None) -> bool:
    return value is not None and value.lower() in ("1", "true")


def _http(address: str) -> str:
    return f"http://{address}" if address and "//" not in address else address


def _package(pid: int, program: str, root: str) -> str:
    """The folder of the `ray` package: the binary lies in ray/core/src/ray/<name>/<name>."""
    try:
        program = os.readlink(f"{root}/{pid}/exe")
    except OSError:
        pass
    head, found, _ = program.rpartition("/core/src/ray/")
    return head if found else ""


def _version(package: str) -> str:
    if not package:
        return ""
    try:
        with open(f"{package}/_version.py", encoding="utf-8") as file:
            match = re.search(r'^version\s*=\s*"([^"]+)"', file.read(4096), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1) if match else ""


def _extra(package: str) -> str:
    site = os.path.dirname(package)
    if not package or not os.path.isdir(site):
        return "unknown"
    return "yes" if all(os.path.isdir(f"{site}/{name}") for name in _DASHBOARD_NEEDS) else "no"
