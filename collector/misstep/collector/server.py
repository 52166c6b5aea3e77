"""The collector in one process: store, diagnosis loop and HTTP server, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import signal
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop

from misstep.collector import jaeger, sockets, sql
from misstep.collector.access import Access
from misstep.collector.api.operation import Context
from misstep.collector.api.service import Service
from misstep.collector.application import Application
from misstep.collector.connection import Connection
from misstep.collector.door import Door
from misstep.collector.loki import routes as loki
from misstep.collector.neighbours import Asker
from misstep.collector.otlp import Receiver
from misstep.collector.prometheus import routes as prometheus
from misstep.collector.rates import Rates
from misstep.collector.remote_write import RemoteWriteReceiver
from misstep.collector.telemetry import Telemetry
from misstep.collector.ticker import Ticker
from misstep.core.clock import Clock
from misstep.core.errors import SettingsError
from misstep.core.settings import Settings
from misstep.diagnosis import diagnose
from misstep.store.limits import Limits
from misstep.store.store import Store

if TYPE_CHECKING:
    from misstep.collector.grpc_server import GrpcServer

_log = logging.getLogger(__name__)
_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 5
_CONNECTIONS_LIMIT = 4096


class Server(uvicorn.Server):
    """uvicorn's server, which says when it listens and leaves signals to us.

    Args:
        config: uvicorn's.
        started: called once, in the loop, when it takes connections.
        grpc: makes the server for gRPC; None for none.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        started: Callable[[], None],
        grpc: Callable[[], GrpcServer] | None = None,
    ) -> None:
        super().__init__(config)
        self._announce = started
        self._make_grpc = grpc
        self._grpc: GrpcServer | None = None
        self._starting: asyncio.Task[None] | None = None

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
        if self._make_grpc is not None:
            self._starting = asyncio.create_task(self._start_grpc(self._make_grpc))

    async def shutdown(self, sockets: Any = None) -> None:
        """Take nothing any more, and let what is under way end."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._grpc is not None:
            await self._grpc.stop(_GRACE_SECONDS)
        await super().shutdown(sockets)

    async def _start_grpc(self, make: Callable[[], GrpcServer]) -> None:
        try:
            await asyncio.to_thread(importlib.import_module, "misstep.collector.grpc_server")
            self._grpc = make()
            await self._grpc.start()
        except Exception as error:  # noqa: BLE001 - HTTP goes on without it
            _log.warning("OTLP over gRPC is not served: %s", error)

    def _ask_exit(self) -> None:
        self.should_exit = True


def serve(
    settings: Settings,
    access: Access,
    listeners: list[sockets.Listener],
    tls: dict[str, Any],
    clock: Clock,
    started: Callable[[], None],
    grpc: sockets.Listener | None = None,
) -> None:
    """Open the store and serve until SIGTERM or SIGINT.

    Args:
        settings: of the process.
        access: who may ask.
        listeners: bound sockets.
        tls: uvicorn's arguments for it; empty for plain HTTP.
        clock: the time.
        started: called once connections are taken.
        grpc: holds the port for OTLP over gRPC; None for none.

    Raises:
        SettingsError: the certificate or its key cannot be used.
        StorageError: the disk refuses.
    """
    options = settings.collector
    limits = Limits(
        series=options.series_limit,
        series_per_tenant=options.series_per_tenant,
        series_per_request=options.series_per_request,
        labels_per_series=options.labels_per_series,
        label_length=options.label_length,
    )
    store = Store.open(settings.data, settings.store, clock=clock, limits=limits, ask=Asker(settings.token))
    try:
        store.announce(sockets.url(options.host, listeners[0].port, tls=bool(tls)))
        telemetry = Telemetry(store.stats)
        ticker = Ticker(store, diagnose, clock, telemetry)
        door = Door(
            store,
            options.body_limit,
            telemetry,
            Rates(options.requests_per_second),
            options.items_per_request,
        )
        context = Context(store, ticker)
        service = Service(context, telemetry, Readiness(store, clock.now()))
        dialects = [
            loki.dialect(context),
            jaeger.dialect(context),
            sql.dialect(context, settings),
            prometheus.dialect(context),
        ]
        application = Application(
            access, Receiver(door), service, telemetry, dialects, store, RemoteWriteReceiver(door)
        )
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
            make = functools.partial(_grpc, settings, access, door, telemetry, grpc, tls) if grpc else None
            uvloop.run(Server(config, started, make).serve([listener.socket for listener in listeners]))
        finally:
            ticker.stop()
    finally:
        store.close()


def _grpc(
    settings: Settings,
    access: Access,
    door: Door,
    telemetry: Telemetry,
    listener: sockets.Listener,
    tls: dict[str, Any],
) -> GrpcServer:
    from misstep.collector.grpc_server import GrpcServer

    # gRPC binds by itself; until now the port was only kept.
    listener.socket.close()
    return GrpcServer(access, door, telemetry, settings.collector.host, listener.port, tls)


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


def _load(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"collector.tls_certificate or collector.tls_key cannot be used: {error}"
        ) from error
