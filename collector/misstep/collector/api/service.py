"""What Starlette serves: our questions, their description, metrics and health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from misstep.collector.api import entities, incidents, logs, sessions, timeline
from misstep.collector.api.openapi import document
from misstep.collector.api.operation import PREFIX, Context, Operation
from misstep.collector.api.parameter import parse
from misstep.collector.refusal import Refusal
from misstep.collector.telemetry import Telemetry
from misstep.core.errors import InputError, StorageError

OPERATIONS: tuple[Operation, ...] = (
    *sessions.OPERATIONS,
    *incidents.OPERATIONS,
    *entities.OPERATIONS,
    *logs.OPERATIONS,
    *timeline.OPERATIONS,
)
THREADS = 4
WAITING_LIMIT = 64
"""Questions that may wait for one of the threads; more are asked to come again."""
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_log = logging.getLogger(__name__)


class Service:
    """Answers everything but OTLP.

    Args:
        context: what handlers ask.
        telemetry: shown under ``/metrics``.
        ready: whether what the journal held at the start has been ingested.
    """

    def __init__(self, context: Context, telemetry: Telemetry, ready: Callable[[], bool]) -> None:
        self._context = context
        self._telemetry = telemetry
        self._ready = ready
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
        self._waiting = 0
        # A bare router: an application of Starlette's would answer for exceptions that our caller counts.
        self._router = Router(routes=self._routes(), default=_nowhere, redirect_slashes=False)
        self._description = msgspec.json.encode(document(OPERATIONS))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI 3.

        Raises:
            Refusal: the caller answers it.
        """
        if scope["method"] not in ("GET", "HEAD"):
            raise Refusal(405, "method", f"{scope['method']} is not served here; the API only answers GET")
        await self._router(scope, receive, send)

    def _routes(self) -> list[Route]:
        asked = [Route(PREFIX + o.path, self._route(o), methods=["GET"], name=o.name) for o in OPERATIONS]
        return [
            *asked,
            Route(f"{PREFIX}/openapi.json", self._describe, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/readyz", self._readyz, methods=["GET"]),
        ]

    def _route(self, operation: Operation) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            query = parse(operation.parameters, request.query_params.multi_items())
            query.update(request.path_params)
            return Response(await self._ask(operation, query), media_type="application/json")

        return handle

    async def _ask(self, operation: Operation, query: dict[str, Any]) -> bytes:
        if self._waiting >= WAITING_LIMIT:
            raise Refusal(429, "overload", "too many questions at once; ask again later", retry_after=1)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._answer, operation, query)
        finally:
            self._waiting -= 1

    def _answer(self, operation: Operation, query: dict[str, Any]) -> bytes:
        try:
            return msgspec.json.encode(operation.run(self._context, query))
        except InputError as error:
            raise Refusal(400, "parameter", str(error)) from error
        except StorageError as error:
            _log.warning("cannot answer %s: %s", operation.name, error)
            raise Refusal(503, "storage", str(error), retry_after=5) from error

    async def _describe(self, request: Request) -> Response:
        return Response(self._description, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._threads, self._telemetry.text)
        return Response(text, headers={"content-type": _EXPOSITION})

    async def _healthz(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, request: Request) -> Response:
        if self._ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the journal is being read\n", status_code=503)


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    known = ", ".join(PREFIX + o.path for o in OPERATIONS)
    raise Refusal(404, "path", f"nothing is served at {scope['path'][:200]}; known are {known}")
