"""Puts the collector together and runs it until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from misstep.collector import sockets
from misstep.collector.access import Access, check_binding, trusted_users
from misstep.collector.api.operation import Context
from misstep.collector.api.service import Service
from misstep.collector.application import Application
from misstep.collector.connection import Connection
from misstep.collector.lock import FolderLock
from misstep.collector.otlp import Receiver
from misstep.collector.telemetry import Telemetry
from misstep.collector.ticker import Ticker
from misstep.collector.tokens import TOKENS_FILE, Tokens
from misstep.core.clock import Clock, SystemClock
from misstep.core.errors import SettingsError, StorageError
from misstep.core.settings import Settings
from misstep.diagnosis import diagnose
from misstep.store.limits import Limits
from misstep.store.store import Store

_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 5
_CONNECTIONS_LIMIT = 4096


@dataclass(frozen=True)
class Ports:
    """Which ports were asked for by name; a default that is taken may be replaced."""

    api: bool = False
    otlp: bool = False


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens and leaves signals to us.

    Args:
        config: uvicorn's.
        started: called once, in the loop, when it takes connections.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, and then return; uvicorn would raise the signal again."""
        loop = asyncio.get_running_loop()
        handled = (signal.SIGTERM, signal.SIGINT)
        for number in handled:
            loop.add_signal_handler(number, self._ask_exit)
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: Any = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._announce()

    def _ask_exit(self) -> None:
        self.should_exit = True


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
            for listener in listeners:
                stack.callback(listener.socket.close)
            access = Access(tokens, users=users, hosts=(options.host, *options.allow_host))
            addresses = _addresses(settings, listeners, clock, tls=bool(tls))
            _serve(
                settings, access, listeners, tls, clock, lambda: _announce(addresses, listeners, ready_file)
            )


def _serve(
    settings: Settings,
    access: Access,
    listeners: list[sockets.Listener],
    tls: dict[str, Any],
    clock: Clock,
    started: Callable[[], None],
) -> None:
    options = settings.collector
    limits = Limits(
        series=options.series_limit,
        series_per_request=options.series_per_request,
        labels_per_series=options.labels_per_series,
        label_length=options.label_length,
    )
    store = Store.open(settings.data, settings.store, clock=clock, limits=limits)
    try:
        telemetry = Telemetry(store.stats)
        ticker = Ticker(store, diagnose, clock, telemetry)
        receiver = Receiver(store, options.body_limit, telemetry)
        service = Service(Context(store, ticker), telemetry, Readiness(store, clock.now()))
        application = Application(access, receiver, service, telemetry)
        config = uvicorn.Config(
            application,
            loop="none",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # A header of the client must never stand in for the address of its connection.
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS_LIMIT,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
            **tls,
        )
        _load(config)
        ticker.start()
        try:
            uvloop.run(Server(config, started).serve([listener.socket for listener in listeners]))
        finally:
            ticker.stop()
    finally:
        store.close()


class Readiness:
    """Whether all that the journal held when the collector started can be asked for."""

    def __init__(self, store: Store, started: int) -> None:
        self._store = store
        self._started = started
        self._ready = False

    def __call__(self) -> bool:
        """Ask."""
        self._ready = self._ready or self._store.ingested(before=self._started)
        return self._ready


def _tls(settings: Settings) -> dict[str, Any]:
    options = settings.collector
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise SettingsError("collector.tls_certificate and collector.tls_key go together; one is missing")
    if not options.tls_certificate:
        return {}
    return {"ssl_certfile": options.tls_certificate, "ssl_keyfile": options.tls_key}


def _load(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"collector.tls_certificate or collector.tls_key cannot be used: {error}"
        ) from error


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
        f"Misstep collector\n  API   {addresses['collector']}\n  OTLP  {addresses['otlp']}\n"
        f"  data  {addresses['data']}",
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
