"""What the lab started on this machine: a folder that goes away, and processes that end with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from misstep.core.errors import UnavailableError
from misstep.lab import keeper

LONGEST_FOLDER = 24
"""Characters; Ray puts sockets 80 characters below, and a unix socket's path ends at 107."""
LOWEST_PORT, HIGHEST_PORT = 20000, 32000
"""Above the ports of Ray's workers (10002-19999), below the kernel's ephemeral ones (32768)."""


class Household:
    """A temporary folder and the processes in it; leaving the context ends both, whatever happened.

    A `keeper` process holds them, so that they end too when this process is killed.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="misstep-", dir=base if len(base) < 10 else "/tmp"))
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Start a process in a session of its own and return its pid; it writes to ``{name}.log``.

        Raises:
            UnavailableError: it cannot be started.
        """
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        command = {"argv": list(argv), "env": dict(env), "cwd": str(self.folder), "log": str(self.log(name))}
        try:
            self._keeper.stdin.write(json.dumps(command) + "\n")
            self._keeper.stdin.flush()
            answer = json.loads(self._keeper.stdout.readline())
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"cannot start {name}: the keeper of the demo's processes is gone"
            ) from error
        if "error" in answer:
            raise UnavailableError(str(answer["error"]))
        return int(answer["pid"])

    def log(self, name: str) -> Path:
        """Where the process `name` writes stdout and stderr."""
        return self.folder / f"{name}.log"

    def last_words(self, name: str, lines: int = 12) -> str:
        """The end of what `name` wrote, for an error message."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def close(self) -> None:
        """End every process and remove the folder."""
        if self._keeper.stdin is not None and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nobody listens, in a row.

    Raises:
        UnavailableError: there is no such row.
    """
    span = HIGHEST_PORT - LOWEST_PORT - count
    start = int.from_bytes(os.urandom(4), "big") % span
    for step in range(0, span, count):
        first = LOWEST_PORT + (start + step) % span
        row = range(first, first + count)
        if all(_free(port) for port in row):
            return list(row)
    raise UnavailableError(f"no {count} free ports in a row between {LOWEST_PORT} and {HIGHEST_PORT}")


def _free(port: int) -> bool:
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if family == socket.AF_INET or error.errno == 98:
                    return False
    return True


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
