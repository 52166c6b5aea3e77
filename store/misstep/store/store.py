"""The store: journal, hot tables and lake behind one door.

Three threads besides the callers: one commits what waits and answers, one inserts into the hot tables, one seals.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import duckdb

from misstep.core.clock import Clock, SystemClock
from misstep.core.errors import InputError, MisstepError, StorageError
from misstep.core.settings import StoreSettings
from misstep.store import otlp, recovery
from misstep.store.arrivals import Arrivals
from misstep.store.commit import Commit
from misstep.store.hot import Hot
from misstep.store.incidents import Incidents
from misstep.store.ingest import Ingest
from misstep.store.journal import Journal
from misstep.store.lake import Lake
from misstep.store.layouts import Known
from misstep.store.limits import Limits
from misstep.store.request import Batch, Receipt, Waiting
from misstep.store.view import View

__all__ = ["Batch", "Limits", "Receipt", "Store"]

GROUP_REQUESTS = 256
GROUP_BYTES = 16 * 1024 * 1024
"""What at most is committed together; more waits for the next commit."""

HOT_LINGER = 0.05
"""Seconds for which rows are gathered before an insert: an insert costs a few milliseconds however small."""

_log = logging.getLogger(__name__)


class Store:
    """Open it with `Store.open`. All methods may be called from any thread."""

    def __init__(self, folder: Path, settings: StoreSettings, limits: Limits, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._door = threading.Lock()
        self._sealing = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._seal_now = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the data folder {folder}: {error}") from error
        self._incidents = Incidents(folder / "incidents.sqlite")
        self._hot = Hot(folder / "spill")
        self._lake = Lake(folder / "lake", self._hot.cursor())
        self._sealed_marks = self._lake.marks()
        self._recover(folder, limits)

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: StoreSettings,
        *,
        clock: Clock | None = None,
        background: bool = True,
        limits: Limits | None = None,
    ) -> Store:
        """Open or create a store; the journal's unsealed rows are in the hot tables when it returns.

        Args:
            folder: where everything lies.
            settings: intervals and sizes.
            clock: the time; the machine's by default.
            background: commit, insert and seal on threads. Without it `append` does the first two before it
                returns, and `seal` is called by hand.
            limits: on series and labels.

        Raises:
            StorageError: the disk refuses, or a newer version wrote the folder.
        """
        store = cls(folder, settings, limits or Limits(), clock or SystemClock())
        if background:
            store._start()
        return store

    def recognise(self, batch_signal: str, body: bytes) -> Known | None:
        """Read a decompressed request the short way, which also proves it well formed; None where that cannot be."""
        return self._layouts.read(body) if batch_signal == otlp.METRICS else None

    def append(
        self, batch: Batch, decompressed: bytes | None = None, known: Known | None = None
    ) -> Future[Receipt]:
        """Store a request; it is on disk when the future resolves.

        The future raises InputError for what is malformed, and StorageError when the disk refuses. In both cases
        nothing is stored.

        Args:
            batch: the request as it came.
            decompressed: its body; by default the payload itself.
            known: what `recognise` said of it.
        """
        future: Future[Receipt] = Future()
        waiting = Waiting(batch, batch.payload if decompressed is None else decompressed, future, known)
        with self._door:
            if self._stop.is_set():
                future.set_exception(StorageError("the store is closed"))
            elif batch.signal not in otlp.SIGNALS:
                signals = ", ".join(otlp.SIGNALS)
                future.set_exception(InputError(f"unknown signal {batch.signal!r}; known are {signals}"))
            elif self._threads:
                self._waiting.put(waiting)
            else:
                self._commit.store([waiting])
                self._arrivals.flush(self._hot)
        return future

    def ingested(self, before: int) -> bool:
        """Whether everything received before this time is in the hot tables and nothing earlier can still come."""
        return self._arrivals.complete(before, self._clock.now())

    def view(self, *, until: int | None = None) -> View:
        """What was received before `until`; by default all that is in the hot tables now and in the lake.

        Raises:
            StorageError: the lake cannot be read.
        """
        return View(self._hot, until)

    def save_incidents(self, tick: int, incidents: Sequence[tuple[str, str, str]]) -> None:
        """Store what a tick found, as (id, session, JSON); earlier versions are kept.

        Raises:
            StorageError: nothing was stored.
        """
        self._incidents.save(tick, incidents)

    def incidents(self, *, session: str | None = None, at: int | None = None) -> list[dict[str, Any]]:
        """The latest version of each incident with tick <= at."""
        return self._incidents.load(session=session, at=at)

    def last_tick(self) -> int:
        """The last tick that was saved; 0 if none was."""
        return self._incidents.last_tick()

    def seal(self) -> bool:
        """Move what is in the journal into the lake; says whether there was anything.

        Raises:
            StorageError: the disk refuses; the journal still has everything.
        """
        with self._sealing:
            after, _ = self._lake.position()
            cut = self._commit.cut(self._sealed_marks)
            if cut.upto <= after:
                return False
            self._flush(cut.received)
            self._lake.seal(after, cut.upto, cut.received, cut.marks)
            self._sealed_marks.update(cut.marks)
            position = self._lake.confirmed()
            self._commit.drop(position)
            self._hot.sealed(position, self._settings.hot_bytes)
            self._counts["seals"] += 1
            self._lake.maintain()
            return True

    def maintain(self) -> None:
        """Merge all small files of the lake now and delete what they replace.

        Raises:
            StorageError: the disk refuses.
        """
        with self._sealing:
            self._lake.maintain(force=True)

    def stats(self) -> dict[str, float]:
        """Counters and sizes by name; ``dropped.<reason>`` counts items that were not stored."""
        found = {**self._counts, **self._commit.stats()}
        found["lake_bytes"] = self._lake.size()
        found["hot_bytes"] = self._hot.bytes()
        found["waiting_requests"] = self._waiting.qsize()
        return found

    def close(self) -> None:
        """Commit what waits and let go of all files. What is unsealed stays in the journal."""
        with self._door:
            if self._stop.is_set():
                return
            self._stop.set()
            self._waiting.put(None)
        self._seal_now.set()
        for thread in self._threads:
            thread.join()
        with self._sealing:
            self._commit.close()
            self._incidents.close()
            self._hot.close()

    def _recover(self, folder: Path, limits: Limits) -> None:
        position, received = self._lake.position()
        received = max(received, self._incidents.last_tick() - 1)
        journal = Journal(folder / "journal", position=position, received=received, marks=self._sealed_marks)
        ingest = Ingest(limits)
        self._layouts = ingest.layouts
        recovery.remember(ingest, self._lake)
        recovery.warm(self._hot, self._lake, self._settings.hot_bytes)
        self._arrivals = Arrivals(journal.received)
        self._commit = Commit(journal, ingest, self._arrivals, self._clock, folder / "quarantine")
        for rows in recovery.groups(journal, position):
            self._commit.replay(rows)
            self._arrivals.flush(self._hot)
        self._commit.drop(position)

    def _start(self) -> None:
        work = {"commit": self._commit_loop, "hot": self._hot_loop, "seal": self._seal_loop}
        self._threads = [
            threading.Thread(target=loop, name=f"store-{name}", daemon=True) for name, loop in work.items()
        ]
        for thread in self._threads:
            thread.start()

    def _commit_loop(self) -> None:
        open_ = True
        while open_:
            group, open_ = self._gather()
            if group:
                self._commit.store(group)
                self._arrivals.make_room()
            if self._commit.unsealed >= self._settings.seal_bytes:
                self._seal_now.set()
        self._arrivals.finish()

    def _gather(self) -> tuple[list[Waiting], bool]:
        """What waits, up to a size, and whether more can come."""
        group: list[Waiting] = []
        size = 0
        following = self._waiting.get()
        while following is not None:
            group.append(following)
            size += len(following.body)
            if len(group) >= GROUP_REQUESTS or size >= GROUP_BYTES:
                return group, True
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _hot_loop(self) -> None:
        while self._arrivals.wait(HOT_LINGER):
            try:
                self._arrivals.flush(self._hot)
            except (duckdb.Error, MemoryError):
                _log.exception("rows could not be put into the hot tables; trying again")
                self._counts["hot_errors"] += 1
                self._clock.sleep(1)

    def _seal_loop(self) -> None:
        while not self._stop.is_set():
            self._seal_now.wait(self._settings.seal_interval)
            self._seal_now.clear()
            if self._stop.is_set():
                return
            try:
                self.seal()
            except (MisstepError, OSError) as error:
                _log.warning("sealing failed, the journal keeps everything: %s", error)
                self._counts["seal_errors"] += 1

    def _flush(self, received: int) -> None:
        if self._threads:
            self._arrivals.drained(received)
        else:
            self._arrivals.flush(self._hot)
