"""The store: journal, hot tables and lake behind one door.

Three threads besides the callers: one commits what waits and answers, one inserts into the hot tables, one seals and
learns what series there are.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
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
from misstep.store.neighbours import Ask, Neighbours
from misstep.store.place import Place
from misstep.store.reader import Reader
from misstep.store.recent import Recent
from misstep.store.registry import Registry
from misstep.store.request import Batch, Receipt, Waiting
from misstep.store.series_index import SeriesIndex
from misstep.store.shared_index import SharedIndex
from misstep.store.upkeep import Upkeep, prune
from misstep.store.view import View

__all__ = ["Batch", "Limits", "Receipt", "Store"]

GROUP_REQUESTS = 256
GROUP_BYTES = 16 * 1024 * 1024
"""What at most is committed together; more waits for the next commit."""

HOT_LINGER = 0.25
"""Seconds for which rows are gathered before an insert: an insert costs a few milliseconds however small."""

_log = logging.getLogger(__name__)


class Store:
    """Open it with `Store.open`. All methods may be called from any thread."""

    def __init__(
        self, folder: Path, settings: StoreSettings, limits: Limits, clock: Clock, ask: Ask | None = None
    ) -> None:
        self._folder, self._settings, self._clock = folder, settings, clock
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
        self._registry = Registry(settings.catalog) if settings.catalog else None
        self._neighbours: Neighbours | None = None
        self._open_lake(Place(folder / "lake", settings.catalog, settings.data), ask)
        self._upkeep = Upkeep(self._lake, settings, clock)
        self._series, self._all_series = SeriesIndex(), SharedIndex()
        self._recent = Recent(settings.recent_bytes)
        self._sealed_marks = self._lake.marks()
        self._recover(folder, limits)
        if self._registry:
            self._registry.mark(unsealed=True)

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: StoreSettings,
        *,
        clock: Clock | None = None,
        background: bool = True,
        limits: Limits | None = None,
        ask: Ask | None = None,
    ) -> Store:
        """Open or create a store; the journal's unsealed rows are in the hot tables when it returns.

        Args:
            folder: where everything lies.
            settings: intervals and sizes.
            clock: the time; the machine's by default.
            background: commit, insert and seal on threads. Without it `append` does the first two before it
                returns, and `seal` is called by hand.
            limits: on series and labels.
            ask: how other collectors of a shared lake are asked for what they have not sealed; without it their
                sealed rows alone are seen.

        Raises:
            StorageError: the disk refuses, or a newer version wrote the folder.
            UnavailableError: the shared catalog does not answer.
        """
        store = cls(folder, settings, limits or Limits(), clock or SystemClock(), ask)
        if background:
            store._start()
        return store

    def recognise(self, signal: str, body: bytes) -> Known | None:
        """Read a decompressed request the short way, which also proves it well formed; None where that cannot be."""
        return self._layouts.read(body) if signal == otlp.METRICS else None

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

    def view(self, *, until: int | None = None, own: bool = False) -> View:
        """What was received before `until`; by default all that is in the hot tables now and in the lake.

        Args:
            until: Unix nanoseconds.
            own: only what this collector received, where several fill the lake. Otherwise the others are asked
                for what they have not sealed, and the view's `missing` names those who did not answer.

        Raises:
            StorageError: the lake cannot be read.
        """
        if own or not self._hot.shared:
            return View(self._hot, until, self._series, own=own, recent=self._recent)
        missing = self._neighbours.refresh() if self._neighbours else ()
        view = View(self._hot, until, self._all_series if until is None else SharedIndex())
        view.missing = missing
        return view

    @property
    def missing(self) -> tuple[str, ...]:
        """Other collectors without whose unsealed rows the last answer was made."""
        return self._neighbours.missing if self._neighbours else ()

    def unsealed(self, after: int) -> dict[str, Any]:
        """Rows with a greater position that are in memory, as Arrow tables by name, for other collectors."""
        return self._hot.newer(after)

    def announce(self, url: str) -> None:
        """Tell the other collectors of a shared lake where this one answers.

        Raises:
            UnavailableError: the catalog does not answer.
        """
        if self._registry:
            self._registry.announce(self._settings.address or url)

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
            self._tended(self._upkeep.after_seal)
            return True

    def maintain(self) -> None:
        """Cut the lake to its limits and merge all small files now, and delete what they replace.

        Raises:
            StorageError: the disk refuses.
        """
        with self._sealing:
            self._tended(self._upkeep.retain)
            self._upkeep.merge()

    def _tended(self, upkeep: Callable[[], object]) -> None:
        """What retention deletes from the lake is not remembered either."""
        before = self._upkeep.counts["retired_samples"]
        try:
            upkeep()
        finally:
            if self._upkeep.counts["retired_samples"] != before:
                self._recent.clear()

    def stats(self) -> dict[str, float]:
        """Counters and sizes by name; ``dropped.<reason>`` counts items that were not stored."""
        found: dict[str, float] = {**self._counts, **self._upkeep.counts, **self._commit.stats()}
        found["lake_bytes"] = self._lake.size()
        found["hot_bytes"] = self._hot.bytes()
        found |= self._recent.stats()
        found["memory_bytes"], found["spill_bytes"] = self._hot.used()
        found["memory_limit_bytes"] = self._hot.memory
        found["disk_free_bytes"] = shutil.disk_usage(self._folder).free
        found["neighbours_missing"] = len(self.missing)
        found["waiting_requests"] = self._waiting.qsize()
        try:
            for table, (files, size) in self._lake.tables().items():
                found[f"table_files.{table}"], found[f"table_bytes.{table}"] = files, size
        except StorageError as error:
            _log.warning("the lake's tables cannot be measured: %s", error)
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
        if self._registry:
            self._leave(self._registry)
        with self._sealing:
            self._commit.close()
            self._incidents.close()
            self._hot.close()

    def _leave(self, registry: Registry) -> None:
        """Seal what is left, so that the others miss nothing while this one is away."""
        if self._neighbours:
            self._neighbours.close()
        try:
            self.seal()
            registry.mark(unsealed=False)
        except (MisstepError, OSError) as error:
            _log.warning("the last rows stay in the journal, others' answers lack them: %s", error)
        registry.close()

    def _open_lake(self, place: Place, ask: Ask | None) -> None:
        registry, spill, memory = self._registry, self._folder / "spill", self._settings.query_bytes
        if registry is None:
            self._hot = Hot(spill, memory=memory)
            self._lake = Lake(place, self._hot.cursor())
            return
        origin = registry.join(self._folder)
        self._hot = Hot(spill, memory=memory, origin=origin, shared=True)
        self._lake = Lake(place, self._hot.cursor(), origin, registry.turn)
        self._neighbours = Neighbours(registry, self._hot, ask) if ask else None

    def _recover(self, folder: Path, limits: Limits) -> None:
        position, received = self._lake.position()
        received = max(received, self._incidents.last_tick() - 1)
        journal = Journal(folder / "journal", position=position, received=received, marks=self._sealed_marks)
        ingest = Ingest(limits)
        self._layouts = ingest.layouts
        prune(self._lake)
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
        self._learn()
        while not self._stop.is_set():
            self._seal_now.wait(self._settings.seal_interval)
            self._seal_now.clear()
            if self._stop.is_set():
                return
            try:
                self.seal()
            except (MisstepError, OSError, duckdb.Error, MemoryError) as error:
                # Whatever it was, the next try must come: without seals the journal fills the disk.
                _log.warning("sealing failed, the journal keeps everything: %s", error)
                self._counts["seal_errors"] += 1
            self._learn()

    def _learn(self) -> None:
        """What series there are, before the first question about them, which would wait for it."""
        index = self._all_series if self._hot.shared else self._series
        try:
            index.known(Reader(self._hot, None))
        except (MisstepError, OSError, duckdb.Error, MemoryError) as error:
            _log.warning("the series are learned with the next question: %s", error)

    def _flush(self, received: int) -> None:
        if self._threads:
            self._arrivals.drained(received)
        else:
            self._arrivals.flush(self._hot)
