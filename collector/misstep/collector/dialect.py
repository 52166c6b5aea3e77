"""An API that others defined: its routes, its errors in its own shape, and the limits under which it is asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from misstep.collector.access import Headers, headers_of
from misstep.collector.api.operation import Context
from misstep.collector.api.parameter import parse_time
from misstep.collector.body import Budget, Receive, read
from misstep.collector.otlp import Send, respond
from misstep.collector.refusal import Refusal
from misstep.core.errors import InputError, StorageError, TooLargeError
from misstep.store.view import View

THREADS = 4
WAITING_LIMIT = 32
"""Questions of a dialect that may wait for a thread; more are asked to come again."""
SECONDS_LIMIT = 60.0
"""Of one question; then it is interrupted."""
BODY_LIMIT = 1024 * 1024
WHOLE_BYTES = 1 << 20
"""An answer in pieces that is no longer than this goes out whole: each change of threads costs a millisecond under load."""
_AGAIN = 0.25
_log = logging.getLogger(__name__)


class Question:
    """A request of a dialect as its handlers see it.

    Attributes:
        form: parameters of the query string and of a form in the body; a name may be repeated.
        path: the parts of the path that the route names.
        headers: by lower-case name.
        body: as sent, if it is no form.
        context: what handlers ask.
    """

    def __init__(
        self,
        context: Context,
        form: dict[str, list[str]],
        path: Mapping[str, str],
        headers: Headers,
        body: bytes = b"",
    ) -> None:
        self.context, self.form, self.path, self.headers, self.body = context, form, path, headers, body
        self.expired = False
        self._view: View | None = None
        self._stops: list[Callable[[], None]] = []

    def text(self, name: str, default: str = "") -> str:
        """The last value of a parameter."""
        values = self.form.get(name)
        return values[-1] if values else default

    def view(self) -> View:
        """What was known at ``at``; now if that is left out.

        Raises:
            Refusal: 400, ``at`` is no time.
        """
        if self._view is None:
            self._view = self.context.view(self.at())
        return self._view

    def at(self) -> int | None:
        """The parameter ``at``, Unix nanoseconds.

        Raises:
            Refusal: 400, it is no time.
        """
        text = self.text("at")
        try:
            return parse_time(text) if text else None
        except (ValueError, OverflowError) as error:
            raise Refusal(400, "parameter", f"at: {error}") from None

    def on_stop(self, stop: Callable[[], None]) -> None:
        """What else ends this question when its time is over."""
        self._stops.append(stop)

    def interrupt(self) -> None:
        """End it, from another thread."""
        self.expired = True
        if self._view is not None:
            self._view.interrupt()
        for stop in self._stops:
            stop()


class Answer:
    """What a handler returns; a body in pieces is made, on a thread, while it goes out."""

    __slots__ = ("body", "media", "status")

    def __init__(
        self, body: bytes | Iterator[bytes], media: bytes = b"application/json", status: int = 200
    ) -> None:
        self.body, self.media, self.status = body, media, status


Handler = Callable[[Question], Answer]


@dataclass(frozen=True)
class Route:
    """One path of a dialect; ``{name}`` stands for one segment."""

    path: str
    handler: Handler = field(repr=False)
    methods: tuple[str, ...] = ("GET", "POST")
    seconds: Callable[[Question], float] | None = field(default=None, repr=False)
    """The limit of one question where it is not the dialect's."""


class Dialect:
    """Serves the routes below some prefixes.

    Args:
        prefixes: paths that begin so are of this dialect.
        routes: what it serves.
        context: what handlers ask.
        shape: how it says an error: body and media type.
        seconds: limit of one question.
        threads: questions that are answered at once.
    """

    def __init__(
        self,
        prefixes: Sequence[str],
        routes: Sequence[Route],
        context: Context,
        shape: Callable[[Refusal], tuple[bytes, bytes]],
        *,
        seconds: float = SECONDS_LIMIT,
        threads: int = THREADS,
        timeout_status: int = 504,
    ) -> None:
        self.prefixes = tuple(prefixes)
        self.shape = shape
        self._routes = [(route.path.strip("/").split("/"), route) for route in routes]
        self._context = context
        self._seconds = seconds
        self._timeout_status = timeout_status
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="dialect")
        self._budget = Budget(8 * BODY_LIMIT)
        self._waiting = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """ASGI 3.

        Raises:
            Refusal: the caller answers it, in `shape`.
        """
        route, path = self._find(scope)
        headers = headers_of(scope)
        form = _form(scope["query_string"])
        body = await self._body(scope["method"], headers, receive)
        if headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
            for name, values in _form(body).items():
                form.setdefault(name, []).extend(values)
        answer = await self._ask(route, Question(self._context, form, path, headers, body), receive)
        if isinstance(answer.body, bytes):
            await respond(send, answer.status, answer.body, answer.media, [])
        else:
            await self._stream(answer.body, answer, send)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _find(self, scope: Any) -> tuple[Route, dict[str, str]]:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        # A segment may hold an escaped slash, so it is unescaped after the split.
        parts = [unquote(part) for part in raw.decode("latin-1").partition("?")[0].strip("/").split("/")]
        for pattern, route in self._routes:
            if len(pattern) == len(parts) and all(
                p == part or (p[:1] == "{" and part) for p, part in zip(pattern, parts, strict=True)
            ):
                if scope["method"] not in (*route.methods, "HEAD"):
                    raise Refusal(
                        405, "method", f"{scope['method']} is not served here; use {route.methods[0]}"
                    )
                named = {p[1:-1]: part for p, part in zip(pattern, parts, strict=True) if p[:1] == "{"}
                return route, named
        known = ", ".join(route.path for _, route in self._routes)
        raise Refusal(404, "path", f"nothing is served at {scope['path'][:200]}; known are {known}")

    async def _body(self, method: str, headers: Headers, receive: Receive) -> bytes:
        if method != "POST":
            return b""
        body = await read(receive, headers.get(b"content-length"), BODY_LIMIT, self._budget)
        self._budget.give(len(body))
        return body

    async def _ask(self, route: Route, question: Question, receive: Receive) -> Answer:
        if self._waiting >= WAITING_LIMIT:
            raise Refusal(429, "overload", "too many questions at once; ask again later", retry_after=1)
        seconds = route.seconds(question) if route.seconds else self._seconds
        self._waiting += 1
        try:
            running = self._threads.submit(_answer, route, question)
            return await self._watch(running, question, receive, seconds)
        finally:
            self._waiting -= 1

    async def _stream(self, pieces: Iterator[bytes], answer: Answer, send: Send) -> None:
        loop = asyncio.get_running_loop()
        piece = next(pieces, None)
        following = await loop.run_in_executor(self._threads, next, pieces, None)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(b"content-type", answer.media)],
            }
        )
        while piece is not None:
            more = following is not None
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            piece = following
            following = await loop.run_in_executor(self._threads, next, pieces, None) if more else None

    async def _watch(
        self, running: Future[Answer], question: Question, receive: Receive, seconds: float
    ) -> Answer:
        """Wait for the answer; past the limit, or when nobody waits for it any more, it is interrupted."""
        answered = asyncio.wrap_future(running)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            first: set[asyncio.Future[Any]] = {answered, gone}
            await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            while not answered.done():
                # Again and again: between two statements there is nothing to interrupt.
                running.cancel()
                question.interrupt()
                await asyncio.wait({answered}, timeout=_AGAIN)
        finally:
            gone.cancel()
        if answered.cancelled() or question.expired:
            # An exception that nobody looks at would be reported.
            answered.cancelled() or answered.exception()
            raise Refusal(
                self._timeout_status,
                "timeout",
                f"the question took longer than {seconds:g} s and was ended",
            )
        return answered.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(route: Route, question: Question) -> Answer:
    try:
        answer = route.handler(question)
        if not isinstance(answer.body, bytes):
            answer.body = _begun(answer.body)
        return answer
    except TooLargeError as error:
        raise Refusal(422, "limit", str(error)) from error
    except InputError as error:
        raise Refusal(400, "query", str(error)) from error
    except StorageError as error:
        if not question.expired:
            _log.warning("cannot answer %s: %s", route.path, error)
        raise Refusal(503, "storage", str(error), retry_after=5) from error


def _begun(pieces: Iterator[bytes]) -> bytes | Iterator[bytes]:
    """The whole body, or its first piece and the rest."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= WHOLE_BYTES:
            return itertools.chain([b"".join(parts)], pieces)
    return b"".join(parts)


def _form(raw: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(
            raw.decode("latin-1"), keep_blank_values=True, max_num_fields=1000, errors="replace"
        )
    except ValueError:
        raise Refusal(400, "parameter", "more than 1000 parameters") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found
