"""The one door into the store for every protocol: checked, counted, and on disk before the answer."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from misstep.collector.access import Headers
from misstep.collector.answers import Answers
from misstep.collector.body import Budget, expand
from misstep.collector.rates import Rates
from misstep.collector.refusal import Refusal
from misstep.collector.telemetry import Stopwatch, Telemetry
from misstep.core.errors import InputError, StorageError
from misstep.store import encoding, otlp, otlp_json
from misstep.store.layouts import Known
from misstep.store.store import Batch, Receipt, Store

BODIES_BYTES = 256 * 1024 * 1024
WAITING_LIMIT = 1024
"""Requests that may wait for the disk at once."""
_INLINE_BYTES = 128 * 1024
_INLINE_COMPRESSED = 16 * 1024
"""Bodies above these, as sent, are decompressed and parsed in a thread; below, the hand-over costs more."""
_LARGE_BYTES = 2 * 1024 * 1024
"""One body above this is parsed at a time, and never in the loop: for that moment it may take ten times its size."""
_CROWD = 4
"""Tiny fields that a body may have for each item that it may have."""
_RETRY_SECONDS = 5
_EXHAUSTED_SECONDS = 10.0
"""For so long a tenant that had no room for a whole request is turned away before anything new of it is decoded."""
_EXHAUSTED_LIMIT = 10_000
_SHAPES = {
    otlp.METRICS: "OTLP ExportMetricsServiceRequest",
    otlp.LOGS: "OTLP ExportLogsServiceRequest",
    otlp.TRACES: "OTLP ExportTraceServiceRequest",
    otlp.REMOTE_WRITE: "remote-write WriteRequest",
}
_log = logging.getLogger(__name__)


class Parcel(NamedTuple):
    """A request as it came.

    Attributes:
        signal: one of `otlp.SIGNALS`.
        body: as sent.
        compression: see `body.expand`.
        json: whether it is OTLP in JSON.
        sender: agent, boot and sequence number; ("", "", -1) without them.
        tenant: see `tenant_of`.
    """

    signal: str
    body: bytes
    compression: str = ""
    json: bool = False
    sender: tuple[str, str, int] = ("", "", -1)
    tenant: bytes = b""


class _Opened(NamedTuple):
    plain: bytes
    batch: Batch
    known: Known | None


class Door:
    """Takes requests into the store.

    Args:
        store: where they are appended.
        body_limit: bytes of one request after decompression.
        telemetry: where answers are counted.
        rates: of tenants.
        items_limit: points (with their buckets), records or spans of one request.

    Attributes:
        budget: bytes of bodies that may be in memory at once.
        limit: `body_limit`.
    """

    def __init__(
        self,
        store: Store,
        body_limit: int,
        telemetry: Telemetry,
        rates: Rates | None = None,
        items_limit: int = 1_000_000,
    ) -> None:
        self._store = store
        self.limit = body_limit
        self._items = items_limit
        self._telemetry = telemetry
        self._rates = rates or Rates(0)
        self.budget = Budget(max(BODIES_BYTES, 2 * body_limit))
        self._waiting = 0
        self._exhausted: dict[bytes, float] = {}
        self._large = threading.Lock()
        self._answers = Answers()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="otlp")
        telemetry.body_bytes.set_function(lambda: self.budget.used)

    def admit(self, tenant: bytes) -> None:
        """Hold a request against its tenant's rate.

        Raises:
            Refusal: 429.
        """
        self._rates.take(tenant)

    async def take(self, parcel: Parcel) -> Receipt:
        """Store a request whose body is taken from the budget; the caller gives that back.

        Raises:
            Refusal: it was not stored.
        """
        watch = Stopwatch()
        opened = await self._open(parcel)
        self.budget.take(len(opened.plain))
        try:
            receipt = await self._append(opened)
        finally:
            self.budget.give(len(opened.plain))
        self._count(parcel, receipt, watch)
        return receipt

    def take_steady(self, parcel: Parcel, done: Callable[[Refusal | None], None]) -> bool:
        """The same for a request that a layout reads, without a task of its own; False leaves it to `take`.

        Args:
            parcel: its body is not taken from the budget yet.
            done: called in the loop when all of it is stored, or with what there is to answer instead.

        Raises:
            Refusal: it was not stored.
        """
        watch = Stopwatch()
        opened = self._expanded(parcel)
        if opened.known is None or self._waiting >= WAITING_LIMIT:
            return False
        self.admit(parcel.tenant)
        size = len(parcel.body) + len(opened.plain)
        self.budget.take(size)
        self._waiting += 1

        def answer(stored: Future[Receipt]) -> None:
            self._waiting -= 1
            self.budget.give(size)
            error = stored.exception()
            if error is None:
                self._count(parcel, stored.result(), watch)
            done(_refusal(error) if error is not None else None)

        self._answers.call(self._store.append(opened.batch, opened.plain, opened.known), answer)
        return True

    async def _open(self, parcel: Parcel) -> _Opened:
        run = functools.partial(asyncio.get_running_loop().run_in_executor, self._threads)
        small = _INLINE_COMPRESSED if parcel.compression or parcel.json else _INLINE_BYTES
        if len(parcel.body) > small:
            return await run(lambda: self._checked(parcel, self._expanded(parcel)))
        opened = self._expanded(parcel)
        if len(opened.plain) > _LARGE_BYTES:
            return await run(self._checked, parcel, opened)
        return self._checked(parcel, opened)

    def _checked(self, parcel: Parcel, opened: _Opened) -> _Opened:
        """Found well formed; a message that was parsed for that is thrown away."""
        if opened.known is not None:
            return opened
        self._turn_away(parcel)
        if len(opened.plain) > _LARGE_BYTES:
            with self._large:
                return self._parsed(parcel, opened)
        return self._parsed(parcel, opened)

    def _parsed(self, parcel: Parcel, opened: _Opened) -> _Opened:
        if otlp.crowded(opened.plain, _CROWD * self._items):
            raise self._too_many()
        if not parcel.json:
            reason = otlp.malformed(parcel.signal, opened.plain)
            if reason:
                raise Refusal(400, "malformed", f"the body is not an {_SHAPES[parcel.signal]} in protobuf")
        if otlp.too_many(parcel.signal, opened.plain, self._items):
            raise self._too_many()
        return opened

    def _too_many(self) -> Refusal:
        return Refusal(
            413, "too_large", f"more than {self._items} points, records or spans; send smaller requests"
        )

    def _turn_away(self, parcel: Parcel) -> None:
        """Refuse points of new series while their sender has no room for any; what layouts know is welcome."""
        until = self._exhausted.get(parcel.tenant)
        if until is None or parcel.signal not in (otlp.METRICS, otlp.REMOTE_WRITE):
            return
        left = until - time.monotonic()
        if left > 0:
            raise Refusal(
                429,
                "limit",
                "this sender has all the series that collector.series_per_tenant allows; send fewer, or raise it",
                retry_after=int(left) + 1,
            )
        self._exhausted.pop(parcel.tenant, None)

    def _expanded(self, parcel: Parcel) -> _Opened:
        plain, kept, compression = expand(parcel.body, parcel.compression, self.limit)
        if parcel.json:
            if sum(plain.count(mark) for mark in (b"{", b"[", b",")) > 2 * _CROWD * self._items:
                raise self._too_many()
            plain = _from_json(parcel.signal, plain)
        known = self._store.recognise(parcel.signal, plain)
        stored = encoding.joined(compression, json=parcel.json)
        batch = Batch(parcel.signal, kept, stored, *parcel.sender, tenant=_name_of(parcel.tenant))
        return _Opened(plain, batch, known)

    async def _append(self, opened: _Opened) -> Receipt:
        if self._waiting >= WAITING_LIMIT:
            raise Refusal(429, "overload", "too many requests wait for the disk", retry_after=1)
        self._waiting += 1
        try:
            return await self._answers.of(self._store.append(opened.batch, opened.plain, opened.known))
        except (StorageError, InputError) as error:
            raise _refusal(error) from error
        finally:
            self._waiting -= 1

    def _count(self, parcel: Parcel, receipt: Receipt, watch: Stopwatch) -> None:
        telemetry = self._telemetry
        telemetry.requests[parcel.signal].inc()
        telemetry.received[parcel.signal].inc(len(parcel.body))
        telemetry.ack_seconds.observe(watch.seconds())
        if receipt.duplicate:
            telemetry.duplicates[parcel.signal].inc()
        if receipt.exhausted and len(self._exhausted) < _EXHAUSTED_LIMIT:
            self._exhausted[parcel.tenant] = time.monotonic() + _EXHAUSTED_SECONDS
        if receipt.rejected:
            telemetry.rejected[parcel.signal].inc(receipt.rejected)


@functools.lru_cache(1024)
def _name_of(tenant: bytes) -> str:
    """The store needs to tell tenants apart, not to know their tokens."""
    return hashlib.blake2b(tenant, digest_size=8).hexdigest() if tenant else ""


def _refusal(error: BaseException) -> Refusal:
    if isinstance(error, InputError):
        return Refusal(400, "malformed", str(error))
    _log.warning("refused a request: %s", error)
    return Refusal(503, "storage", str(error), retry_after=_RETRY_SECONDS)


def sender_of(headers: Headers) -> tuple[str, str, int]:
    """Agent, boot and sequence number of a request that is stored once; ("", "", -1) without them.

    Raises:
        Refusal: 400, they are incomplete.
    """
    boot = headers.get(b"misstep-boot")
    if boot is None:
        return "", "", -1
    agent, seq = headers.get(b"misstep-agent", b""), headers.get(b"misstep-seq", b"")
    if not (0 < len(boot) <= 64 and 0 < len(agent) <= 256 and seq.isdigit() and len(seq) <= 18):
        raise Refusal(
            400,
            "agent_headers",
            "Misstep-Boot needs Misstep-Agent and a whole number in Misstep-Seq beside it",
        )
    return agent.decode("latin-1"), boot.decode("latin-1"), int(seq)


def tenant_of(headers: Headers, uid: int | None) -> bytes:
    """Whose rate a request counts against: its token's, or its local user's."""
    return headers.get(b"authorization") or b"uid %d" % (-1 if uid is None else uid)


def _from_json(signal: str, text: bytes) -> bytes:
    try:
        return otlp_json.to_protobuf(signal, text)
    except InputError as error:
        raise Refusal(400, "malformed", str(error)) from error
