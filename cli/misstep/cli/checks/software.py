"""Python, Misstep's own parts, and Ray."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from misstep.cli.checks import BROKEN, LIMITED, OK, Check
from misstep.cli.parts import COLLECTOR

PARTS = {
    "collector": (COLLECTOR, BROKEN),
    "cli": (("shtab",), LIMITED),
}
"""The modules that each extra must have brought, and how bad it is without."""

NEWEST_RAY = (2, 60)
"""The newest version that was tried."""

_PROBE = """
import importlib.metadata as m, importlib.util as u, json, sys
try:
    version = m.version("ray")
except m.PackageNotFoundError:
    version = ""
default = all(u.find_spec(n) for n in ("aiohttp", "aiohttp_cors", "grpc", "opencensus", "prometheus_client", "pydantic"))
print(json.dumps({"version": version, "default": default, "python": sys.executable}))
"""


def check() -> list[Check]:
    """All of them."""
    return [_system(), *(_part(extra, modules, state) for extra, (modules, state) in PARTS.items()), ray()]


def ray() -> Check:
    """The Ray of the Python that a user's scripts run in: its version, and whether it can send events."""
    from misstep.agent.ray.cluster import EVENTS_SINCE, WORKERS_SINCE

    python = interpreter()
    found = _ask(python)
    if (found is None or not found["version"]) and python != sys.executable:
        python, found = sys.executable, _ask(sys.executable)
    if found is None or not found["version"]:
        return Check(
            "Ray",
            LIMITED,
            f"not installed for {interpreter()}",
            f"{interpreter()} -m pip install 'ray[default]'",
        )
    version = str(found["version"])
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    update = f"{python} -m pip install -U 'ray[default]'"
    if not found["default"]:
        return Check(
            "Ray", LIMITED, f"{version} without [default]: no dashboard, no events; logs and processes are read",
            f"{python} -m pip install 'ray[default]=={version}'",
        )  # fmt: skip
    if number < EVENTS_SINCE:
        return Check(
            "Ray",
            LIMITED,
            f"{version} sends no events; its dashboard, logs and processes are read instead",
            update,
        )
    if number < WORKERS_SINCE:
        return Check(
            "Ray",
            LIMITED,
            f"{version} does not say how a worker died; it is read from logs and processes",
            update,
        )
    if number > NEWEST_RAY:
        newest = ".".join(map(str, NEWEST_RAY))
        return Check("Ray", LIMITED, f"{version} is newer than {newest}, the newest that was tried")
    return Check("Ray", OK, f"{version} with [default] in {python}")


def interpreter() -> str:
    """The Python that a user's scripts run in: that of PATH, else ours."""
    return shutil.which("python") or shutil.which("python3") or sys.executable


def _system() -> Check:
    name = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if sys.platform != "linux":
        return Check("system", LIMITED, f"{name}: collector and commands run, the agent needs Linux")
    return Check("system", OK, f"{name}, {os.cpu_count()} cores")


def _part(extra: str, modules: tuple[str, ...], state: str) -> Check:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        line = f"{sys.executable} -m pip install 'misstep[{extra}]'"
        return Check(f"misstep[{extra}]", state, f"not installed: {', '.join(missing)}", line)
    return Check(f"misstep[{extra}]", OK, "installed")


def _ask(python: str) -> dict[str, object] | None:
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], check=False, capture_output=True, text=True, timeout=10, cwd=Path("/")
        )
        answer: dict[str, object] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer
