"""Which machine this is, and which agent."""

from __future__ import annotations

import os
import secrets
from typing import NamedTuple

from misstep.core import __version__, names
from misstep.core.errors import StorageError

_MACHINE_ID = ("/etc/machine-id", "/var/lib/dbus/machine-id")


class Host(NamedTuple):
    """This machine as every record's resource names it.

    Attributes:
        id: 32 hex digits, the machine id of systemd, as OpenTelemetry's ``host.id`` has it.
        boot: id of the kernel's boot.
        agent: ``Misstep-Agent``, readable and unique per machine.
    """

    id: str
    name: str
    boot: str
    agent: str

    @property
    def entity(self) -> str:
        """``host/<id>``."""
        return f"host/{self.id}"

    @property
    def resource(self) -> dict[str, str]:
        """Resource attributes of what the agent sends."""
        return {
            names.SERVICE: "misstep-agent",
            "service.version": __version__,
            names.HOST_NAME: self.name,
            names.HOST_ID: self.id,
            names.AGENT: self.agent,
        }


def host(data: str, *, root: str = "") -> Host:
    """Find out which machine this is.

    Args:
        data: the data folder; where the machine has no id (many container images), one is minted and kept there.
        root: prefix of ``/etc`` and ``/proc``, for tests and for agents in a container with the host mounted.

    Raises:
        StorageError: an id had to be kept and the folder cannot be written.
    """
    found = next(filter(None, (_id(root + path) for path in _MACHINE_ID)), "") or _minted(data)
    name = os.uname().nodename
    boot = _read(root + "/proc/sys/kernel/random/boot_id").strip().replace("-", "")
    return Host(found, name, boot, f"{_ascii(name)}-{found[:12]}")


def _id(path: str) -> str:
    text = _read(path).strip().lower()
    return text if len(text) == 32 and all(c in "0123456789abcdef" for c in text) and text.strip("0") else ""


def _minted(data: str) -> str:
    path = os.path.join(data, "host-id")
    held = _id(path)
    if held:
        return held
    minted = secrets.token_hex(16)
    try:
        os.makedirs(data, mode=0o700, exist_ok=True)
        with open(path, "w") as file:
            file.write(minted + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return minted


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in name) or "host"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:
        return ""
