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
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from misstep.core.clock import Clock, SystemClock
from misstep.core.errors import InputError, MisstepError, StorageError
from misstep.core.settings import StoreSettings
from misstep.store import otlp, recovery
from misstep.store.arrivals import Arrivals
from misstep.store.hot import Hot
from misstep.store.incidents import Incidents
from misstep.store.ingest import Group, Ingest
from misstep.store.journal import Journal
from misstep.store.lake import Lake
from misstep.store.limits import Limits
from misstep.store.segment import HighWater, Marks, Row
from misstep.store.verdict import Verdict
from misstep.store.view import View

GROUP_REQUESTS = 256
GROUP_BYTES = 16 * 1024 * 1024
"""What at most is committed together; more waits for the next commit."""

HOT_LINGER = 0.05
"""Seconds for which rows are gathered before an insert: an insert costs a few milliseconds however small."""

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """One request.

    Attributes:
        signal: ``metrics`` or ``logs``.
        payload: the body as it came, perhaps compressed; this is what the journal keeps.
        encoding: ``gzip`` or empty.
        agent: id of the sending agent; with it `boot` and `agent_seq` make the request exactly once.
        boot: id of the agent's spool.
        agent_seq: strictly increasing in the order of sending; holes are allowed.
        verdict: a verdict to apply instead of today's limits, from a journal that is replayed.
    """

    signal: str
    payload: bytes
    encoding: str = ""
    agent: str = ""
    boot: str = ""
    agent_seq: int = -1
    verdict: bytes = b""


class Receipt(NamedTuple):
    """The answer to one request.

    Attributes:
        seq: its journal position; 0 for a duplicate.
        received: its time of receipt, Unix nanoseconds, greater than that of every request before.
        duplicate: it was stored before and was not stored again.
        rejected: how many of its points or records were not stored.
        warning: why, in one line for the sender.
    """

    seq: int
    received: int
    duplicate: bool = False
    rejected: int = 0
    warning: str = ""


class _Waiting(NamedTuple):
    batch: Batch
    body: bytes
    future: Future[Receipt]


class Store:
    """Open it with `Store.open`. All methods may be called from any thread."""

    def __init__(self, folder: Path, settings: StoreSettings, limits: Limits, clock: Clock) -> None:
        self._folder, self._settings, self._clock = folder, settings, clock
        self._lock = threading.Lock()
        self._sealing = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._seal_now = threading.Event()
        self._since_seal = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the data folder {folder}: {error}") from error
        self._incidents = Incidents(folder / "incidents.sqlite")
        self._hot = Hot(folder / "spill")
        self._lake = Lake(folder / "lake", self._hot.cursor())
        self._ingest = Ingest(limits)
        self._recover()

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

    def append(self, batch: Batch, decompressed: bytes | None = None) -> Future[Receipt]:
        """Store a request; it is on disk when the future resolves.

        The future raises InputError for what is malformed, and StorageError when the disk refuses. In both cases
        nothing is stored.

        Args:
            batch: the request as it came.
            decompressed: its body; by default the payload itself.
        """
        future: Future[Receipt] = Future()
        if batch.signal not in otlp.SIGNALS:
            future.set_exception(
                InputError(f"unknown signal {batch.signal!r}; known are {', '.join(otlp.SIGNALS)}")
            )
            return future
        waiting = _Waiting(batch, batch.payload if decompressed is None else decompressed, future)
        if self._stop.is_set():
            future.set_exception(StorageError("the store is closed"))
        elif self._threads:
            self._waiting.put(waiting)
        else:
            self._commit([waiting])
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
            with self._lock:
                self._journal.rotate()
                upto, received = self._journal.next_seq - 1, self._journal.received
                marks = {k: m for k, m in self._journal.marks.items() if self._sealed_marks.get(k) != m}
            if upto <= after:
                return False
            self._flush(received)
            self._lake.seal(after, upto, received, marks)
            self._sealed_marks.update(marks)
            position = self._lake.confirmed()
            with self._lock:
                self._journal.drop(position)
                self._since_seal = 0
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
        """Counters and sizes by name; ``dropped.<reason>`` counts what was not stored."""
        with self._lock:
            found: dict[str, float] = {**self._counts, **self._journal.counts}
            found |= {f"dropped.{reason}": number for reason, number in self._dropped.items()}
            found["journal_segments"] = self._journal.segments()
            found["series_live"] = self._ingest.live_series
            found["position"] = self._journal.next_seq - 1
        found["journal_bytes"] = self._journal.size()
        found["lake_bytes"] = self._lake.size()
        found["hot_bytes"] = self._hot.bytes()
        found["waiting_requests"] = self._waiting.qsize()
        return found

    def close(self) -> None:
        """Commit what waits and let go of all files. What is unsealed stays in the journal."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._seal_now.set()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        with self._sealing, self._lock:
            self._journal.close()
            self._incidents.close()
            self._hot.close()

    def _start(self) -> None:
        for name, work in (("commit", self._commit_loop), ("hot", self._hot_loop), ("seal", self._seal_loop)):
            self._threads.append(threading.Thread(target=work, name=f"store-{name}", daemon=True))
        for thread in self._threads:
            thread.start()

    def _recover(self) -> None:
        position, received = self._lake.position()
        received = max(received, self._incidents.last_tick() - 1)
        self._sealed_marks = self._lake.marks()
        self._journal = Journal(
            self._folder / "journal", position=position, received=received, marks=self._sealed_marks
        )
        self._hot.start_at(position)
        recovery.remember(self._ingest, self._lake)
        self._arrivals = Arrivals(self._journal.received)
        for rows in recovery.groups(self._journal, position):
            group = recovery.replay(self._ingest, rows)
            self._store_rows(group, rows)
            self._arrivals.flush(self._hot)
        self._journal.drop(position)

    # -- commit thread ---------------------------------------------------------------------------

    def _commit_loop(self) -> None:
        while True:
            first = self._waiting.get()
            group = [] if first is None else [first]
            size = 0
            while group and len(group) < GROUP_REQUESTS and size < GROUP_BYTES:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    first = None
                    break
                group.append(following)
                size += len(following.body)
            if group:
                self._commit(group)
                self._arrivals.make_room()
            if first is None:
                self._arrivals.finish()
                return

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            with self._lock:
                self._commit_group(group)
        except Exception as error:  # noqa: BLE001 - the thread must live: later requests deserve their answers
            _log.exception("a group of requests could not be committed")
            self._counts["commit_errors"] += 1
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(StorageError(f"the request could not be stored: {error}"))

    def _commit_group(self, group: list[_Waiting]) -> None:
        fresh, copies = self._duplicates(group)
        judged = self._ingest.judge(
            [w.batch.signal for w in fresh], [w.body for w in fresh], [w.batch.verdict for w in fresh]
        )
        kept = [place for place, verdict in enumerate(judged.verdicts) if verdict is not None]
        rows = self._rows([fresh[place] for place in kept], [judged.verdicts[place] for place in kept])
        try:
            if rows:
                self._journal.append(rows, _marks(rows))
        except StorageError as error:
            self._arrivals.forget(rows[0].received)
            for waiting in group:
                waiting.future.set_exception(error)
            return
        receipts = {id(fresh[place]): row for place, row in zip(kept, rows, strict=True)}
        self._answer(fresh, copies, judged, receipts)
        if rows:
            self._store_rows(_only(judged, kept), rows)

    def _duplicates(self, group: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
        fresh: list[_Waiting] = []
        copies: list[_Waiting] = []
        raised: dict[tuple[str, str], int] = {}
        for waiting in group:
            batch = waiting.batch
            if batch.agent and batch.agent_seq >= 0:
                key = (batch.agent, batch.boot)
                mark = self._journal.marks.get(key)
                known = max(raised.get(key, -1), mark.agent_seq if mark else -1)
                if batch.agent_seq <= known:
                    copies.append(waiting)
                    continue
                raised[key] = batch.agent_seq
            fresh.append(waiting)
        return fresh, copies

    def _rows(self, kept: list[_Waiting], verdicts: list[Verdict | None]) -> list[Row]:
        if not kept:
            return []
        received = self._arrivals.take(self._clock.now(), len(kept))
        rows = []
        for offset, (waiting, verdict) in enumerate(zip(kept, verdicts, strict=True)):
            batch = waiting.batch
            assert verdict is not None
            rows.append(
                Row(
                    self._journal.next_seq + offset,
                    received + offset,
                    batch.signal,
                    batch.agent,
                    batch.boot,
                    batch.agent_seq,
                    batch.encoding,
                    verdict.to_bytes(),
                    batch.payload,
                )
            )
        return rows

    def _answer(
        self, fresh: list[_Waiting], copies: list[_Waiting], judged: Group, stored: dict[int, Row]
    ) -> None:
        for place, waiting in enumerate(fresh):
            verdict = judged.verdicts[place]
            if verdict is None:
                self._dropped["malformed"] += 1
                waiting.future.set_exception(judged.refused[place])
                continue
            row = stored[id(waiting)]
            self._dropped.update(verdict.counts())
            waiting.future.set_result(
                Receipt(row.seq, row.received, False, verdict.rejected(), verdict.warning())
            )
        for waiting in copies:
            self._counts["requests_duplicate"] += 1
            waiting.future.set_result(Receipt(0, self._journal.received, True))

    def _store_rows(self, group: Group, rows: Sequence[Row]) -> None:
        seq = np.array([row.seq for row in rows], np.int64)
        received = np.array([row.received for row in rows], np.int64)
        tables = self._ingest.rows(group, seq, received)
        tables["requests"] = [_request_table(rows)]
        for name, parts in tables.items():
            self._counts[f"rows_{name}"] += sum(part.num_rows for part in parts)
        for row, verdict in zip(rows, group.verdicts, strict=True):
            if verdict is not None and verdict.undecodable:
                recovery.put_aside(self._folder / "quarantine", row)
        self._since_seal += sum(len(row.payload) for row in rows)
        if self._since_seal >= self._settings.seal_bytes:
            self._seal_now.set()
        self._arrivals.put(rows[0].received, rows[-1].received, tables)

    # -- hot and seal threads --------------------------------------------------------------------

    def _hot_loop(self) -> None:
        while self._arrivals.wait(HOT_LINGER):
            try:
                self._arrivals.flush(self._hot)
            except (duckdb.Error, MemoryError):
                _log.exception("rows could not be put into the hot tables; trying again")
                self._counts["hot_errors"] += 1
                self._stop.wait(1)

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


def _marks(rows: Sequence[Row]) -> Marks:
    return {
        (row.agent, row.boot): HighWater(row.agent_seq, row.received)
        for row in rows
        if row.agent and row.agent_seq >= 0
    }


def _only(group: Group, kept: list[int]) -> Group:
    """The group without the requests that were refused, places counted anew."""
    place = {old: new for new, old in enumerate(kept)}
    parts = [part._replace(places=[place[p] for p in part.places]) for part in group.parts]
    return Group(parts, [group.verdicts[old] for old in kept], {})


def _request_table(rows: Sequence[Row]) -> Any:
    return pa.table(
        {
            "seq": pa.array([row.seq for row in rows], pa.int64()),
            "received": pa.array([row.received for row in rows], pa.int64()),
            "signal": pa.array([row.signal for row in rows], pa.string()),
            "agent": pa.array([row.agent for row in rows], pa.string()),
            "boot": pa.array([row.boot for row in rows], pa.string()),
            "agent_seq": pa.array([row.agent_seq for row in rows], pa.int64()),
            "bytes": pa.array([len(row.payload) for row in rows], pa.int64()),
            "verdict": pa.array([row.verdict for row in rows], pa.binary()),
        }
    )
