"""The two processes that `misstep up` keeps running: how each is started, and when it serves."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from misstep.cli.checks.place import listener
from misstep.cli.supervisor import Child
from misstep.core.errors import UnavailableError
from misstep.core.exits import Exit
from misstep.core.settings import AgentSettings, Settings

_RAY_PORTS = range(10002, 20000)
_TRIES = 20


def collector(data: Path, port: int | None, config: Path | None) -> Child:
    """The collector chooses its ports and writes them down; after a restart it keeps them."""
    ready_file = data / "collector.ready.json"

    def argv() -> list[str]:
        ports = {} if port is None else {"--port": port}
        # Exit.UNAVAILABLE: somebody else took the old port meanwhile, so it may choose again.
        if child.restarts and child.status != Exit.UNAVAILABLE and (before := _read(ready_file)) is not None:
            ports = {
                "--port": urlsplit(before["collector"]).port,
                "--otlp-port": urlsplit(before["otlp"]).port,
            }
            if "otlp_grpc" in before:
                ports["--grpc-port"] = urlsplit(before["otlp_grpc"]).port
        ready_file.unlink(missing_ok=True)
        flags = [f"{flag}={value}" for flag, value in ports.items()]
        return _python("collector", data, config, [*flags, f"--ready-file={ready_file}"])

    child = Child("collector", argv, os.environ, lambda: _of(child, _read(ready_file)))
    return child


def agent(
    data: Path, settings: Settings, config: Path | None, endpoint: Path, say: Callable[[str], None]
) -> Child:
    """The agent, on a port that is free now; it follows the collector by the endpoint file."""
    url = f"http://127.0.0.1:{_free_port(settings.agent.receiver_port, say)}"

    def argv() -> list[str]:
        return _python("agent", data, config, [f"--port={urlsplit(url).port}"])

    environ = {**os.environ, "MISSTEP_ENDPOINT_FILE": str(endpoint)}
    return Child("agent", argv, environ, lambda: {"agent": url} if _healthy(url) else None)


def _python(room: str, data: Path, config: Path | None, flags: list[str]) -> list[str]:
    given = [f"--data={data}", *([f"--config={config}"] if config is not None else []), *flags]
    return [sys.executable, "-m", f"misstep.{room}", *given]


def _of(child: Child, answer: dict[str, Any] | None) -> dict[str, Any] | None:
    """What this process wrote, not one before it."""
    if answer is None or child.process is None or answer["pid"] != child.process.pid:
        return None
    return {"collector": answer["collector"], "otlp": answer["otlp"]}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return answer


def _free_port(wanted: int, say: Callable[[str], None]) -> int:
    """The port that is wanted (0: any), or another one if it is taken and was only the default.

    Raises:
        UnavailableError: it is taken and was asked for by name.
    """
    holder = listener(wanted) if wanted else None
    if holder is None and wanted:
        return wanted
    if wanted and wanted != AgentSettings().receiver_port:
        raise UnavailableError(f"port {wanted} for the agent is held by {holder}; choose another, or stop it")
    for _ in range(_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            chosen: int = probe.getsockname()[1]
        if chosen not in _RAY_PORTS:
            if holder is not None:
                say(f"port {wanted} for the agent is held by {holder}; using {chosen}")
            return chosen
    raise UnavailableError("no free port for the agent")


def _healthy(url: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
