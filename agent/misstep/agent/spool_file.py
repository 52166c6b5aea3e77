"""The spool's file: its tables, who may use it, and what happens when it is damaged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import zlib
from collections.abc import Callable

from misstep.core.errors import StorageError, UnavailableError

KINDS = ("metric", "line", "event")
"""One table each, in the order in which they are given up."""

_KEEP_DAMAGED = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (kind TEXT, reason TEXT, total INTEGER, told INTEGER, PRIMARY KEY (kind, reason)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flight (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER, kind TEXT, first INTEGER, last INTEGER);
""" + "".join(
    f"CREATE TABLE IF NOT EXISTS {kind} (id INTEGER PRIMARY KEY, created INTEGER, count INTEGER, size INTEGER, packed INTEGER, payload BLOB);\n"
    for kind in KINDS
)  # size is before compression; packed says whether payload is zlib

_SOFT = ("locked", "full", "disk i/o", "unable to open", "readonly", "read-only")


def connect(path: str) -> sqlite3.Connection:
    """Open a sound spool, or create one.

    Raises:
        sqlite3.DatabaseError: it is damaged, or the disk refuses (`soft` tells which).
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-512")
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check found damage")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def set_aside(path: str, now: int) -> str:
    """Move a damaged file away, keep the newest few of those, and return its new name.

    Raises:
        OSError: the folder cannot be written.
    """
    aside = f"{path}.damaged-{now}"
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    _keep_newest(path)
    return os.path.basename(aside)


class Translated:
    """SQLite's errors become ours; a damaged file is replaced on the spot."""

    def __init__(self, quarantine: Callable[[sqlite3.DatabaseError], None]) -> None:
        self._quarantine = quarantine

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (sqlite3.DatabaseError, zlib.error)):
            damage = error if isinstance(error, sqlite3.DatabaseError) else sqlite3.DatabaseError(str(error))
            if not soft(damage):
                self._quarantine(damage)
            raise StorageError(f"the spool refuses: {error}") from error


def soft(error: sqlite3.DatabaseError) -> bool:
    """Whether the file may be sound and only the disk, a lock or a right is in the way."""
    text = str(error).lower()
    return isinstance(error, sqlite3.OperationalError) and any(word in text for word in _SOFT)


def take(folder: str) -> int:
    """Lock the data folder for this process; returns the descriptor that holds the lock.

    Raises:
        StorageError: the folder cannot be written.
        UnavailableError: another agent holds it.
    """
    path = os.path.join(folder, "spool.lock")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        guard = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(guard, 32, 0).decode("ascii", "replace").strip()
        os.close(guard)
        raise UnavailableError(
            f"another agent (pid {owner}) uses {folder}; stop it or choose another folder with --data"
        ) from error
    os.ftruncate(guard, 0)
    os.pwrite(guard, b"%d\n" % os.getpid(), 0)
    return guard


def _keep_newest(path: str) -> None:
    folder, name = os.path.split(path)
    stem = f"{name}.damaged-"
    aside = sorted(
        {
            entry.removesuffix("-wal").removesuffix("-shm")
            for entry in os.listdir(folder)
            if entry.startswith(stem)
        }
    )
    for old in aside[:-_KEEP_DAMAGED]:
        for suffix in ("", "-wal", "-shm"):
            try:
                os.remove(os.path.join(folder, old + suffix))
            except FileNotFoundError:
                pass
