"""Starting a collector: what can be wrong is found, and told, before anything heavy is loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from misstep.collector import sockets
from misstep.collector.access import Access, check_binding, trusted_users
from misstep.collector.lock import FolderLock
from misstep.collector.tokens import TOKENS_FILE, Tokens
from misstep.core.clock import Clock, SystemClock
from misstep.core.errors import MissingExtraError, SettingsError, StorageError
from misstep.core.settings import CollectorSettings, Settings


@dataclass(frozen=True)
class Ports:
    """Which ports were asked for by name; a default that is taken may be replaced."""

    api: bool = False
    otlp: bool = False
    grpc: bool = False


def run(
    settings: Settings, ports: Ports = Ports(), *, ready_file: Path | None = None, clock: Clock | None = None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: of the process.
        ports: which ports were insisted on.
        ready_file: where the addresses are written, as JSON, once connections are taken.
        clock: the time, by default the machine's.

    Raises:
        SettingsError: a setting cannot be followed.
        UnavailableError: a port or the data folder is taken.
        StorageError: the disk refuses.
    """
    clock = clock or SystemClock()
    options = settings.collector
    tls = _tls(settings)
    users = trusted_users(options.trust_user)
    with FolderLock(settings.data):
        tokens = Tokens(settings.data / TOKENS_FILE)
        check_binding(options.host, tokens=len(tokens), tls=bool(tls))
        with contextlib.ExitStack() as stack:
            listeners = [
                sockets.bind(options.host, options.port, insist=ports.api, purpose="the API"),
                sockets.bind(options.host, options.otlp_port, insist=ports.otlp, purpose="OTLP"),
            ]
            grpc = _grpc_listener(options, ports)
            for listener in [*listeners, *([grpc] if grpc else [])]:
                stack.callback(listener.socket.close)
            access = Access(tokens, users=users, hosts=(options.host, *options.allow_host))
            addresses = _addresses(settings, listeners, clock, tls=bool(tls))
            if grpc:
                addresses["otlp_grpc"] = sockets.url(options.host, grpc.port, tls=bool(tls))
            told = [*listeners, *([grpc] if grpc else [])]

            def announce() -> None:
                _announce(addresses, told, ready_file)

            _serve(settings, access, listeners, tls, clock, announce, grpc)


def _grpc_listener(options: CollectorSettings, ports: Ports) -> sockets.Listener | None:
    """The port for OTLP over gRPC; None where grpcio is not installed."""
    if importlib.util.find_spec("grpc") is None:
        return None
    return sockets.bind(options.host, options.grpc_port, insist=ports.grpc, purpose="OTLP over gRPC")


def _serve(settings: Settings, *arguments: Any) -> None:
    try:
        from misstep.collector.server import serve
    except ModuleNotFoundError as error:
        module = error.name or ""
        if module.startswith("misstep"):
            raise
        raise MissingExtraError("misstep collector", "collector", module) from error
    serve(settings, *arguments)


def _tls(settings: Settings) -> dict[str, Any]:
    options = settings.collector
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise SettingsError("collector.tls_certificate and collector.tls_key go together; one is missing")
    if not options.tls_certificate:
        return {}
    return {"ssl_certfile": options.tls_certificate, "ssl_keyfile": options.tls_key}


def _addresses(
    settings: Settings, listeners: list[sockets.Listener], clock: Clock, *, tls: bool
) -> dict[str, Any]:
    host = settings.collector.host
    return {
        "collector": sockets.url(host, listeners[0].port, tls=tls),
        "otlp": sockets.url(host, listeners[1].port, tls=tls),
        "pid": os.getpid(),
        "data": str(settings.data.absolute()),
        "started_ns": clock.now(),
    }


def _announce(addresses: dict[str, Any], listeners: list[sockets.Listener], ready_file: Path | None) -> None:
    for listener in listeners:
        if listener.note:
            print(f"note: {listener.note}", file=sys.stderr)
    print(
        f"Misstep collector\n  API   {addresses['collector']}\n  OTLP  {addresses['otlp']}"
        + (f", gRPC {addresses['otlp_grpc']}" if "otlp_grpc" in addresses else "")
        + f"\n  data  {addresses['data']}",
        file=sys.stderr,
        flush=True,
    )
    if ready_file is None:
        return
    temporary = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(addresses))
        temporary.replace(ready_file)
    except OSError as error:
        raise StorageError(f"cannot write {ready_file}: {error.strerror}") from error
