"""The endpoint file: how every command on this machine finds the collector and agent of `misstep up`."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from misstep.core.client import default_data, endpoint_file, read_endpoint
from misstep.core.errors import StorageError, UnavailableError


def paths(data: Path) -> list[Path]:
    """Where an `up` on `data` announces itself: the first is its own, the second lets commands find it anyway.

    Without ``$XDG_RUNTIME_DIR`` (root, containers) the file lies in the data folder, which a command in
    another terminal does not know; so it is also left in the default data folder.
    """
    if fixed := os.environ.get("MISSTEP_ENDPOINT_FILE"):
        return [Path(fixed)]
    own, common = endpoint_file(data), endpoint_file(default_data())
    return [own] if own == common else [own, common]


def find(data: Path | None = None) -> dict[str, Any] | None:
    """The addresses of a Misstep that runs here, or None; files that a killed one left behind do not count."""
    for path in paths(data or default_data()):
        try:
            endpoint = read_endpoint(path)
        except UnavailableError:
            continue
        if alive(endpoint.get("pid")):
            return endpoint
    return None


def write(path: Path, endpoint: dict[str, Any]) -> None:
    """Write the addresses, readable by the owner only, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".endpoint-")  # 0600 by itself
        with os.fdopen(handle, "w") as file:
            json.dump(endpoint, file)
        Path(temporary).replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def remove(path: Path, pid: int) -> None:
    """Take the file away if it still is that process's."""
    try:
        if read_endpoint(path).get("pid") == pid:
            path.unlink()
    except (UnavailableError, OSError):
        pass


def holder(path: Path) -> int | None:
    """The pid of the living process that wrote the file."""
    try:
        pid = read_endpoint(path).get("pid")
    except UnavailableError:
        return None
    return int(str(pid)) if alive(pid) else None


def alive(pid: object) -> bool:
    """Whether a process with this pid runs; a zombie does not."""
    try:
        state = Path(f"/proc/{int(str(pid))}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return _answers_signals(pid) if not Path("/proc/self/stat").exists() else False
    return state not in "ZX"


def _answers_signals(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
