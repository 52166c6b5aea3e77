"""Where Misstep works on this machine: folder, ports, whether it runs, and what runs that it could watch."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from misstep.cli import endpoint
from misstep.cli.checks import BROKEN, LIMITED, OK, Check
from misstep.core.client import Client
from misstep.core.errors import MisstepError
from misstep.core.settings import Settings

LOW_SPACE = 2 * 1024**3
"""Bytes below which the journal of a busy cluster fills the disk within a day."""


def check(settings: Settings) -> list[Check]:
    """All of them."""
    running = endpoint.find(settings.data)
    return [
        _data(settings.data),
        _kept(settings),
        _running(running),
        *_ports(settings, running),
        _tokens(),
        _clusters(),
    ]


def _data(folder: Path) -> Check:
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not os.access(place, os.W_OK):
        return Check(
            "data folder", BROKEN, f"{folder} cannot be written", "misstep up --data /a/folder/of/yours"
        )
    free = shutil.disk_usage(place).free
    detail = f"{folder}, {free / 1024**3:.1f} GB free"
    if free < LOW_SPACE:
        return Check("data folder", LIMITED, detail, "misstep up --data /a/larger/disk")
    return Check("data folder", OK, detail)


def _kept(settings: Settings) -> Check:
    """How much there is and how long it stays."""
    own = settings.store
    ages = {"samples": own.samples_days, "logs": own.logs_days, "spans": own.spans_days}
    kept = ", ".join(f"{name} {days:g} days" if days else f"{name} for ever" for name, days in ages.items())
    if own.catalog:
        return Check("kept", OK, f"{kept}; the lake is shared with other collectors")
    place = next(p for p in (settings.data.absolute(), *settings.data.absolute().parents) if p.exists())
    most = own.lake_bytes or shutil.disk_usage(place).total * own.lake_share
    files = (settings.data / "lake").rglob("*") if (settings.data / "lake").is_dir() else ()
    size = sum(file.stat().st_size for file in files if file.is_file())
    detail = f"{kept}; the lake takes {size / 1024**3:.2f} GB of at most {most / 1024**3:.1f}"
    if size > most:
        return Check("kept", LIMITED, detail, "MISSTEP_STORE_LAKE_BYTES=… misstep up")
    return Check("kept", OK, detail)


def _running(running: dict[str, object] | None) -> Check:
    if running is None:
        return Check("misstep up", LIMITED, "does not run here: nothing is watched", "misstep up")
    url = str(running["collector"])
    try:
        sessions = Client(url, timeout=3).get("sessions")["sessions"]
    except MisstepError as error:
        return Check("misstep up", LIMITED, f"pid {running['pid']} runs, but {error}")
    live = sum(s["state"] == "live" for s in sessions)
    return Check(
        "misstep up", OK, f"pid {running['pid']} at {url}, {len(sessions)} sessions stored, {live} live"
    )


def _ports(settings: Settings, running: dict[str, object] | None) -> list[Check]:
    ours = " ".join(str(v) for v in (running or {}).values())
    wanted = {
        "API": settings.collector.port,
        "OTLP": settings.collector.otlp_port,
        "agent": settings.agent.receiver_port,
    }
    taken = {
        name: port for name, port in wanted.items() if listener(port) is not None and f":{port}" not in ours
    }
    if not taken:
        return [Check("ports", OK, ", ".join(f"{port} ({name})" for name, port in wanted.items()))]
    return [
        Check("ports", LIMITED, f"{port} ({name}) is held by {listener(port)}; `misstep up` will choose another")
        for name, port in taken.items()
    ]  # fmt: skip


def listener(port: int) -> str | None:
    """Who listens on a TCP port of this machine: ``pid 812 (nginx)``, or None if nobody does."""
    inodes: dict[str, str] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            part = row.split()
            if part[3] == "0A" and int(part[1].rpartition(":")[2], 16) == port:
                inodes[f"socket:[{part[9]}]"] = part[7]
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(_leads_to(link, inodes) for link in (process / "fd").iterdir()):
                return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return f"a process of user {next(iter(inodes.values()))}"


def _leads_to(link: Path, inodes: Collection[str]) -> bool:
    try:
        return str(link.readlink()) in inodes
    except OSError:
        return False  # closed since it was listed


def _tokens() -> Check:
    """Ray's token: needed to ask the dashboard of a Ray 2.60 and later; others should not read it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check("Ray token", OK, "RAY_AUTH_TOKEN is set")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = path.stat().st_mode
        path.read_bytes()
    except FileNotFoundError:
        return Check("Ray token", OK, f"none at {path}; Ray makes one when it starts")
    except OSError as error:
        return Check("Ray token", LIMITED, f"{path}: {error.strerror}: the dashboard stays shut to us", f"sudo chown $USER {path}")  # fmt: skip
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return Check("Ray token", LIMITED, f"{path} can be read by other users", f"chmod 600 {path}")
    return Check("Ray token", OK, f"{path} is readable, by you alone")


def _clusters() -> Check:
    """Ray clusters that run on this machine now, found as the agent finds them: by their raylets."""
    folders: dict[str, bool] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            argv = (process / "cmdline").read_bytes().split(b"\0")
            if not argv[0].endswith(b"/raylet"):
                continue
            environ = (process / "environ").read_bytes()
        except PermissionError:
            environ = b""
        except OSError:
            continue
        name = next((a for a in argv if a.startswith(b"--session-name=")), b"=unknown").partition(b"=")[2]
        folders[name.decode(errors="replace")] = b"RAY_enable_ray_event=1" in environ
    if not folders:
        return Check("running Ray", OK, "none on this machine now")
    silent = [name for name, sends in folders.items() if not sends]
    if silent:
        return Check(
            "running Ray", LIMITED, f"{', '.join(silent)} started without event stream: watched by dashboard, logs and processes",
            'eval "$(misstep env ray)" before `ray start`, or misstep run -- python my_script.py',
        )  # fmt: skip
    return Check("running Ray", OK, f"{', '.join(folders)}, sending events")
