"""What waits for the collector, on disk: bounded, ordered, and safe against kill -9.

One SQLite file (WAL) in the data folder. A reading's records and the cursor up to which it goes are committed
together, so nothing is read twice or skipped; a request keeps its sequence number and its rows until it is
settled, so whatever is sent again after a doubt is recognised by the collector. What has to go goes metrics
first, then log lines, then events, and each drop is counted and told in an ``agent.gap`` event.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping

from misstep.agent.flight import Flight, Range
from misstep.agent.records import Records
from misstep.agent.spool_file import KINDS, Translated, connect, set_aside, soft, take
from misstep.core.clock import SECOND, Clock, SystemClock
from misstep.core.errors import MisstepError, StorageError

REQUEST_BYTES = 1024 * 1024
"""A request takes rows until it has this many bytes before compression."""
_ROW_BYTES = 256 * 1024
_COMPRESS_FROM = 128 * 1024
_SEQ_LEAP = 1_000_000
_FREE_PAGES = 256
_GAP_EVERY = 10 * SECOND
_AGE_EVERY = 10 * SECOND


class Spool:
    """All methods may be called from any thread.

    Args:
        folder: the data folder; the spool is ``spool.sqlite`` in it, and one agent at a time may use it.
        limit: bytes that may wait.
        age: seconds that they may wait.
        gap_event: encodes an ``agent.gap`` into records: (records, kind, count, reason).
        host_boot: id of the machine's boot; after a change the newest commits may be missing.

    Raises:
        StorageError: the folder cannot be written.
        UnavailableError: another agent uses it.
    """

    def __init__(
        self,
        folder: str,
        *,
        limit: int,
        age: float,
        gap_event: Callable[[Records, str, int, str], None],
        host_boot: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._path = os.path.join(folder, "spool.sqlite")
        self._limit, self._age = limit, round(age * SECOND)
        self._gap_event = gap_event
        self._host_boot = host_boot
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._filled = threading.Condition(self._lock)
        self._closed = False
        self._next_gap = 0
        self._next_age = 0
        self._lost: dict[tuple[str, str], int] = {}
        self._bytes: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._flight: Range | None = None
        self._settled: Range | None = None
        self._shrink = False
        self._guard = take(folder)
        self._open()

    # -- writing -----------------------------------------------------------------------------------
    def commit(self, readings: Iterable[Records], metrics: bytes = b"", points: int = 0) -> None:
        """Keep readings with their cursors and gaps, in one transaction.

        Args:
            metrics: the readings' points as framed metrics (`Records.metrics`); they are encoded by the caller, who keeps the sheets.
            points: how many there are.

        Raises:
            StorageError: nothing of it was kept; no cursor moved.
        """
        now = self._clock.now()
        readings = list(readings)
        with self._lock, self._translated():
            self._begin()
            try:
                before = dict(self._last)
                for one in readings:
                    self._insert("event", now, one.events)
                    self._insert("line", now, one.lines)
                    for key, value in one.cursors.items():
                        self._put_cursor(key, value)
                    for (kind, reason), count in one.gaps.items():
                        self._count(kind, reason, count)
                for (kind, reason), count in self._lost.items():
                    self._count(kind, reason, count)
                if metrics:
                    self._insert_row("metric", now, points, metrics)
                self._forget_settled()
                self._bound(now)
                self._tell_gaps(now)
                self._db.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
            self._lost.clear()
            self._give_back()
            if before != self._last:
                self._filled.notify_all()

    def lose(self, readings: Iterable[Records], points: int, reason: str) -> None:
        """Count readings that a failed `commit` could not keep and that nobody will bring again."""
        with self._lock:
            for one in readings:
                for kind, count in (("event", len(one.events)), ("line", len(one.lines))):
                    if count:
                        self._lost[kind, reason] = self._lost.get((kind, reason), 0) + count
                for gap, count in one.gaps.items():
                    self._lost[gap] = self._lost.get(gap, 0) + count
            if points:
                self._lost["metric", reason] = self._lost.get(("metric", reason), 0) + points

    # -- sending -----------------------------------------------------------------------------------
    def wait(self, timeout: float | None = None) -> bool:
        """Block until something waits to be sent; False when nothing does by then, or the spool closed."""
        with self._lock:
            if not self._closed and not self._waiting():
                self._filled.wait(timeout)
            return not self._closed and self._waiting()

    def wake(self) -> None:
        """Let whoever stands in `wait` come back now."""
        with self._lock:
            self._filled.notify_all()

    def claim(self) -> Flight | None:
        """The next request: the one in flight if it was not settled, else events, then lines, then metrics.

        Its sequence number and rows are on disk before it is returned.

        Raises:
            StorageError: the disk refuses.
        """
        with self._lock, self._translated():
            while True:
                if self._flight is None:
                    self._begin()
                    try:
                        self._forget_settled()
                        self._choose()
                        self._db.execute("COMMIT")
                    except BaseException:
                        self._rollback()
                        raise
                flight = self._load()
                if flight is None or flight.records:
                    return flight
                self.settle(flight)  # its rows went with a crash of the machine

    def settle(self, flight: Flight, dropped: int = 0, reason: str = "") -> None:
        """The collector answered for a flight: its rows go, `dropped` of its records are counted as lost.

        On disk they go with the next transaction; if we die before, they are sent again under the same number.
        """
        with self._lock:
            if self._flight is None or (self._boot, self._flight.seq) != (flight.boot, flight.seq):
                return
            self._settled = self._flight
            self._flight = None
            if dropped:
                key = (flight.kind, reason)
                self._lost[key] = self._lost.get(key, 0) + dropped

    # -- asking ------------------------------------------------------------------------------------
    def cursor(self, key: str) -> str:
        """The committed position of a source, or an empty string."""
        with self._lock, self._translated():
            row = self._db.execute("SELECT value FROM cursors WHERE key = ?", (key,)).fetchone()
            return str(row[0]) if row else ""

    def cursors(self, prefix: str) -> dict[str, str]:
        """All committed positions whose key begins so."""
        with self._lock, self._translated():
            found = self._db.execute(
                "SELECT key, value FROM cursors WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)
            )
            return dict(found.fetchall())

    def dropped(self) -> Mapping[str, int]:
        """Records lost so far in the life of this spool, by kind."""
        with self._lock:
            return dict(self._dropped)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait, as they lie on disk."""
        return sum(self._bytes.values())

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def boot(self) -> str:
        """``Misstep-Boot``: minted when the spool was created."""
        return self._boot

    def close(self) -> None:
        """Write what is pending and let the folder go; waiting threads come back."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._filled.notify_all()
            try:
                self.commit(())
            except MisstepError:
                pass
            self._db.close()
            os.close(self._guard)

    # -- the file ----------------------------------------------------------------------------------
    def _open(self) -> None:
        try:
            self._db = connect(self._path)
            self._restore()
        except sqlite3.DatabaseError as error:
            if soft(error):
                raise StorageError(f"cannot open {self._path}: {error}") from error
            self._replace(error)

    def _quarantine(self, error: sqlite3.DatabaseError) -> None:
        """The open file turned out to be damaged."""
        self._db.close()
        self._replace(error)

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Go on with an empty spool and a new boot; what the damaged one held is a gap of unknown size."""
        try:
            aside = set_aside(self._path, self._clock.now())
            self._db = connect(self._path)
            self._restore()
        except (OSError, sqlite3.Error) as second:
            raise StorageError(f"cannot replace the damaged {self._path}: {second}") from second
        reason = f"the spool was damaged ({error}) and set aside as {aside}"
        self._lost["spool", reason] = self._lost.get(("spool", reason), 0) + 1

    def _restore(self) -> None:
        run = self._db.execute
        run("BEGIN IMMEDIATE")
        meta = dict(run("SELECT key, value FROM meta").fetchall())
        self._boot = meta.get("boot") or secrets.token_hex(16)
        flight = run("SELECT seq, kind, first, last FROM flight").fetchone()
        self._seq = flight[0] if flight else 0
        self._flight = Range(*flight) if flight and flight[1] else None
        self._settled = None
        if self._host_boot != meta.get("host_boot", self._host_boot):
            # A crash of the machine may have taken the newest commits with it: numbers that the collector has seen must not come again.
            self._seq += _SEQ_LEAP
        for pair in (("boot", self._boot), ("host_boot", self._host_boot)):
            run("INSERT OR REPLACE INTO meta VALUES (?, ?)", pair)
        for kind in KINDS:
            row = run(
                f"SELECT coalesce(sum(length(payload)), 0), coalesce(max(id), 0), coalesce(min(id), 1) FROM {kind}"
            )
            self._bytes[kind], self._last[kind], self._first[kind] = row.fetchone()
        self._dropped = dict(run("SELECT kind, sum(total) FROM dropped GROUP BY kind").fetchall())
        self._untold = True  # drops that nobody was told of may stand in the file
        run("COMMIT")

    def _translated(self) -> Translated:
        return Translated(self._quarantine)

    def _begin(self) -> None:
        self._undo = (dict(self._bytes), dict(self._last), dict(self._first), dict(self._dropped))
        self._undo_flight = (self._seq, self._flight, self._settled)
        self._db.execute("BEGIN IMMEDIATE")

    def _rollback(self) -> None:
        self._bytes, self._last, self._first, self._dropped = self._undo
        self._seq, self._flight, self._settled = self._undo_flight
        try:
            self._db.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has rolled back already, for example on a full disk

    # -- rows --------------------------------------------------------------------------------------
    def _insert(self, kind: str, now: int, records: list[bytes]) -> None:
        start = size = 0
        for place, record in enumerate(records):
            if size and size + len(record) > _ROW_BYTES:
                self._insert_row(kind, now, place - start, b"".join(records[start:place]))
                start, size = place, 0
            size += len(record)
        if size:
            self._insert_row(kind, now, len(records) - start, b"".join(records[start:]))

    def _insert_row(self, kind: str, now: int, count: int, payload: bytes) -> None:
        # A row that is sent at once is not worth compressing; in an outage it makes ten times as much fit.
        packed = zlib.compress(payload, 1) if self.waiting_bytes > _COMPRESS_FROM else payload
        number = self._last[kind] + 1
        self._db.execute(
            f"INSERT INTO {kind} VALUES (?, ?, ?, ?, ?, ?)",
            (number, now, count, len(payload), packed is not payload, packed),
        )
        self._last[kind] = number
        self._bytes[kind] += len(packed)

    def _put_cursor(self, key: str, value: str) -> None:
        if value:
            self._db.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (key, value))
        else:
            self._db.execute("DELETE FROM cursors WHERE key = ?", (key,))

    def _waiting(self) -> bool:
        return self._flight is not None or any(self._last[kind] >= self._head(kind) for kind in KINDS)

    def _head(self, kind: str) -> int:
        """The first id of a kind that is neither in flight nor settled."""
        for taken in (self._flight, self._settled):
            if taken is not None and taken.kind == kind:
                return max(self._first[kind], taken.last + 1)
        return self._first[kind]

    def _choose(self) -> None:
        for kind in reversed(KINDS):
            size, first, last = 0, 0, 0
            rows = self._db.execute(f"SELECT id, size FROM {kind} ORDER BY id")
            for number, row_size in rows:
                if first and size + row_size > REQUEST_BYTES:
                    break
                first, last, size = first or number, number, size + row_size
            rows.close()
            if first:
                self._seq += 1
                self._flight = Range(self._seq, kind, first, last)
                self._db.execute("INSERT OR REPLACE INTO flight VALUES (1, ?, ?, ?, ?)", self._flight)
                return

    def _load(self) -> Flight | None:
        if self._flight is None:
            return None
        seq, kind, first, last = self._flight
        count, parts = 0, []
        for number, packed, payload in self._db.execute(
            f"SELECT count, packed, payload FROM {kind} WHERE id BETWEEN ? AND ? ORDER BY id", (first, last)
        ):
            count += number
            parts.append(zlib.decompress(payload) if packed else payload)
        return Flight(self._boot, seq, kind, count, b"".join(parts))

    def _forget_settled(self) -> None:
        if self._settled is None:
            return
        seq, kind, first, last = self._settled
        self._delete(kind, "id BETWEEN ? AND ?", (first, last))
        self._db.execute("UPDATE flight SET kind = '' WHERE seq = ?", (seq,))
        self._settled = None
        self._shrink = self.waiting_bytes < self._limit // 16

    def _give_back(self) -> None:
        """After an outage the file is as large as what waited; return some of it to the disk, a little each time."""
        if not self._shrink:
            return
        self._shrink = False
        try:
            if self._db.execute("PRAGMA freelist_count").fetchone()[0] > _FREE_PAGES:
                # execute() would stop after the first page: the statement yields rows without columns
                self._db.executescript(f"PRAGMA incremental_vacuum({_FREE_PAGES})")
        except sqlite3.OperationalError:
            pass  # the file stays as large as it is

    def _delete(self, kind: str, where: str, values: tuple[int, ...]) -> int:
        """Delete rows; returns how many records they held."""
        size: int
        count: int
        size, count = self._db.execute(
            f"SELECT coalesce(sum(length(payload)), 0), coalesce(sum(count), 0) FROM {kind} WHERE {where}",
            values,
        ).fetchone()
        self._db.execute(f"DELETE FROM {kind} WHERE {where}", values)
        self._bytes[kind] -= size
        if size:
            row = self._db.execute(f"SELECT coalesce(min(id), ?) FROM {kind}", (self._last[kind] + 1,))
            self._first[kind] = row.fetchone()[0]
        return count

    # -- giving up ---------------------------------------------------------------------------------
    def _bound(self, now: int) -> None:
        if now >= self._next_age:
            self._next_age = now + _AGE_EVERY
            for kind in KINDS:
                head = self._head(kind)
                count = self._delete(kind, "id >= ? AND created < ?", (head, now - self._age))
                self._count(kind, "older than the spool may hold", count)
        for kind in KINDS:
            over = self.waiting_bytes - self._limit
            if over <= 0:
                return
            self._give_up(kind, over + self._limit // 32)

    def _give_up(self, kind: str, bytes_: int) -> None:
        last = freed = 0
        rows = self._db.execute(
            f"SELECT id, length(payload) FROM {kind} WHERE id >= ? ORDER BY id", (self._head(kind),)
        )
        for number, size in rows:
            last, freed = number, freed + size
            if freed >= bytes_:
                break
        rows.close()
        if freed:
            count = self._delete(kind, "id BETWEEN ? AND ?", (self._head(kind), last))
            self._count(kind, "the spool was full", count)

    def _count(self, kind: str, reason: str, count: int) -> None:
        if count <= 0:
            return
        self._dropped[kind] = self._dropped.get(kind, 0) + count
        self._db.execute(
            "INSERT INTO dropped VALUES (?1, ?2, ?3, 0) ON CONFLICT (kind, reason) DO UPDATE SET total = total + ?3",
            (kind, reason, count),
        )
        self._untold = True

    def _tell_gaps(self, now: int) -> None:
        if not self._untold or now < self._next_gap:
            return
        told = Records(now)
        for kind, reason, count in self._db.execute(
            "SELECT kind, reason, total - told FROM dropped WHERE total > told"
        ):
            self._gap_event(told, kind, count, reason)
        self._db.execute("UPDATE dropped SET told = total WHERE total > told")
        self._insert("event", now, told.events)
        self._untold = False
        if told.events:
            self._next_gap = now + _GAP_EVERY
