"""The commit: one transaction of the journal for all requests that wait, then their answers, then their rows."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misstep.core.clock import Clock
from misstep.core.errors import StorageError
from misstep.store import encoding, otlp, recovery
from misstep.store.arrivals import Arrivals, Rows
from misstep.store.ingest import Group, Ingest, Made
from misstep.store.journal import Journal
from misstep.store.request import Receipt, Waiting, marks_of
from misstep.store.segment import Marks, Row
from misstep.store.verdict import Verdict

_log = logging.getLogger(__name__)


class Cut(NamedTuple):
    """Where the journal stood when a seal began."""

    upto: int
    received: int
    marks: Marks


class Commit:
    """Journal and ingest under one lock. Safe for any thread.

    Attributes:
        unsealed: bytes that were stored since the last `cut`.
    """

    def __init__(
        self, journal: Journal, ingest: Ingest, arrivals: Arrivals, clock: Clock, quarantine: Path
    ) -> None:
        self._journal, self._ingest, self._arrivals, self._clock = journal, ingest, arrivals, clock
        self._quarantine = quarantine
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self.unsealed = 0

    def store(self, group: list[Waiting]) -> None:
        """Commit a group and answer it; every future is resolved when it returns."""
        try:
            with self._lock:
                self._store(group)
        except Exception as error:  # noqa: BLE001 - whatever it is, senders must hear and later requests be served
            _log.exception("a group of requests could not be stored")
            self._counts["commit_errors"] += 1
            for waiting in group:
                if not waiting.future.done():
                    waiting.future.set_exception(StorageError(f"the request could not be stored: {error}"))

    def replay(self, rows: Sequence[Row]) -> None:
        """Make rows of what an earlier run stored, by the verdicts it gave."""
        with self._lock:
            self._make_rows(recovery.replay(self._ingest, rows), rows)

    def cut(self, known: Marks) -> Cut:
        """Let the journal go on in a new segment.

        Args:
            known: high-water marks that need not be told.
        """
        with self._lock:
            try:
                self._journal.rotate()
            except (OSError, sqlite3.Error) as error:
                # A full disk: the lake may still take what is there, and deleting older segments makes room.
                self._counts["journal_errors"] += 1
                _log.warning("the journal could not start a new segment: %s", error)
            self.unsealed = 0
            marks = {key: mark for key, mark in self._journal.marks.items() if known.get(key) != mark}
            return Cut(self._journal.next_seq - 1, self._journal.received, marks)

    def drop(self, position: int) -> None:
        """Delete the segments that the lake has."""
        with self._lock:
            self._journal.drop(position)

    def stats(self) -> dict[str, float]:
        """Counters by name."""
        with self._lock:
            found: dict[str, float] = {**self._counts, **self._journal.counts}
            found |= {f"dropped.{reason}": number for reason, number in self._dropped.items()}
            found["journal_segments"] = self._journal.segments()
            found["journal_bytes"] = self._journal.size()
            found["series_live"] = self._ingest.live_series
            found["position"] = self._journal.next_seq - 1
            return found

    def close(self) -> None:
        """Let go of the journal."""
        with self._lock:
            self._journal.close()

    def _store(self, group: list[Waiting]) -> None:
        fresh, copies = self._duplicates(group)
        judged = self._ingest.judge(
            [w.batch.signal for w in fresh],
            [w.body for w in fresh],
            [w.batch.verdict for w in fresh],
            [w.known for w in fresh],
            tenants=[w.batch.tenant for w in fresh],
            now=self._clock.now(),
        )
        kept = [place for place, verdict in enumerate(judged.verdicts) if verdict is not None]
        rows = self._rows(fresh, judged, kept)
        try:
            if rows:
                self._journal.append(rows, marks_of(rows))
        except StorageError as error:
            self._arrivals.forget(rows[0].received)
            self._counts["requests_refused"] += len(group)
            for waiting in group:
                waiting.future.set_exception(error)
            return
        self._answer(fresh, copies, judged, dict(zip(kept, rows, strict=True)))
        if rows:
            self._make_rows(judged.only(kept), rows)
            self._learn_layouts(fresh, judged)

    def _duplicates(self, group: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
        """Those that are new, and those that were stored before or wait twice in this group."""
        fresh: list[Waiting] = []
        copies: list[Waiting] = []
        high: dict[tuple[str, str], int] = {}
        for waiting in group:
            key = (waiting.batch.agent, waiting.batch.boot)
            if waiting.batch.numbered:
                mark = self._journal.marks.get(key)
                if waiting.batch.agent_seq <= max(high.get(key, -1), mark.agent_seq if mark else -1):
                    copies.append(waiting)
                    continue
                high[key] = waiting.batch.agent_seq
            fresh.append(waiting)
        return fresh, copies

    def _rows(self, fresh: list[Waiting], judged: Group, kept: list[int]) -> list[Row]:
        if not kept:
            return []
        received = self._arrivals.take(self._clock.now(), len(kept))
        rows = []
        for offset, place in enumerate(kept):
            batch, verdict = fresh[place].batch, judged.verdicts[place] or Verdict()
            payload, stored_as = encoding.packed(batch.payload, batch.encoding)
            rows.append(
                Row(
                    seq=self._journal.next_seq + offset,
                    received=received + offset,
                    signal=batch.signal,
                    agent=batch.agent,
                    boot=batch.boot,
                    agent_seq=batch.agent_seq,
                    encoding=stored_as,
                    verdict=verdict.to_bytes(),
                    payload=payload,
                )
            )
        return rows

    def _answer(
        self, fresh: list[Waiting], copies: list[Waiting], judged: Group, stored: dict[int, Row]
    ) -> None:
        for place, waiting in enumerate(fresh):
            verdict = judged.verdicts[place]
            if verdict is None:
                self._counts["requests_malformed"] += 1
                waiting.future.set_exception(judged.refused[place])
                continue
            row = stored[place]
            self._dropped.update(verdict.counts())
            waiting.future.set_result(
                Receipt(
                    row.seq,
                    row.received,
                    rejected=verdict.rejected(),
                    warning=verdict.warning(),
                    exhausted=verdict.exhausted(),
                )
            )
        for waiting in copies:
            self._counts["requests_duplicate"] += 1
            waiting.future.set_result(Receipt(0, self._journal.received, True))

    def _make_rows(self, group: Group, rows: Sequence[Row]) -> None:
        try:
            made = self._ingest.rows(group, *_positions(rows))
        except Exception:  # noqa: BLE001 - they are in the journal: each that can be read must be
            _log.exception("rows could not be made of a group of requests; trying one by one")
            made = self._one_by_one(rows)
        for row, verdict in zip(rows, group.verdicts, strict=True):
            if verdict is not None and verdict.undecodable:
                recovery.put_aside(self._quarantine, row)
        self._counts["rows_requests"] += len(rows)
        self._counts["rows_samples"] += sum(len(one.reading) for one in made.steady)
        for name, parts in made.tables.items():
            self._counts[f"rows_{name}"] += sum(part.num_rows for part in parts)
        self.unsealed += sum(len(row.payload) for row in rows)
        self._arrivals.put(Rows(rows, *made))

    def _learn_layouts(self, fresh: list[Waiting], judged: Group) -> None:
        decoded = [
            (waiting.body, verdict)
            for waiting, verdict in zip(fresh, judged.verdicts, strict=True)
            if waiting.known is None and waiting.batch.signal == otlp.METRICS and verdict is not None
        ]
        if decoded:
            self._ingest.learn_layouts(*zip(*decoded, strict=True))

    def _one_by_one(self, rows: Sequence[Row]) -> Made:
        found: dict[str, list[Any]] = {}
        for row in rows:
            try:
                made = self._ingest.rows(recovery.replay(self._ingest, [row]), *_positions([row]))
            except Exception:  # noqa: BLE001 - see `_make_rows`
                _log.exception("request %d cannot be read and is put aside", row.seq)
                self._dropped["undecodable"] += 1
                recovery.put_aside(self._quarantine, row)
                continue
            for name, parts in made.tables.items():
                found.setdefault(name, []).extend(parts)
        return Made(found, [])


def _positions(rows: Sequence[Row]) -> tuple[Any, Any]:
    seqs, received = [row.seq for row in rows], [row.received for row in rows]
    return np.array(seqs, np.int64), np.array(received, np.int64)
