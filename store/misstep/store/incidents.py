"""Versions of incidents, by the tick that found them: a small SQLite file of its own, written at each tick."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from misstep.core.errors import StorageError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS incidents(id TEXT NOT NULL, tick INTEGER NOT NULL, session TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (id, tick)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ticks(one INTEGER PRIMARY KEY CHECK (one = 1), tick INTEGER NOT NULL);
"""


class Incidents:
    """Safe for any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            StorageError: the disk refuses or the file is damaged.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode=WAL")
            for statement in _SCHEMA.split(";")[:-1]:
                self._db.execute(statement)
        except sqlite3.Error as error:
            raise StorageError(f"cannot open {path}: {error}") from error

    def save(self, tick: int, incidents: Sequence[tuple[str, str, str]]) -> None:
        """Store what a tick found; a version that equals the one before is not stored again.

        Args:
            tick: Unix nanoseconds.
            incidents: (id, session, JSON).

        Raises:
            StorageError: nothing was stored.
        """
        with self._lock:
            try:
                new = [entry for entry in incidents if self._latest(entry[0], tick) != entry[2]]
                # Without an incident the tick alone is at stake, and a tick that found nothing can be done again.
                self._db.execute(f"PRAGMA synchronous={'FULL' if new else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                for id, session, body in new:
                    self._db.execute(
                        "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?)", (id, tick, session, body)
                    )
                self._db.execute(
                    "INSERT INTO ticks VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET tick = max(tick, excluded.tick)",
                    (tick,),
                )
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StorageError(f"{self._path} cannot be written: {error}") from error

    def load(self, *, session: str | None = None, at: int | None = None) -> list[dict[str, Any]]:
        """The latest version of each incident with tick <= at, ordered by its first tick and id."""
        with self._lock:
            # SQLite promises the row of the maximum for `body` only where max() is the one aggregate of its kind.
            rows = self._db.execute(
                "SELECT body, first FROM (SELECT id, body, max(tick) FROM incidents WHERE (?1 IS NULL OR tick <= ?1) "
                "AND (?2 IS NULL OR session = ?2) GROUP BY id) JOIN (SELECT id, min(tick) AS first FROM incidents "
                "GROUP BY id) USING (id) ORDER BY first, id",
                (at, session),
            ).fetchall()
        return [json.loads(body) for body, _ in rows]

    def last_tick(self) -> int:
        """The last tick that was saved; 0 if none was."""
        with self._lock:
            row = self._db.execute("SELECT tick FROM ticks").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def _latest(self, id: str, tick: int) -> str | None:
        row = self._db.execute(
            "SELECT body FROM incidents WHERE id = ? AND tick <= ? ORDER BY tick DESC LIMIT 1", (id, tick)
        ).fetchone()
        return str(row[0]) if row else None
