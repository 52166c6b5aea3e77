"""Who fills a shared lake: a table beside DuckLake's own in the same PostgreSQL, and the locks that keep writers apart.

Seals take turns by an advisory lock. DuckLake would resolve conflicts by itself, but by trying again, and what it was
about to write would be written twice. A second lock, held for a collector's whole life, makes sure that a folder that was
copied or moved is not opened twice. PostgreSQL lets go of both when a connection ends, however it ends.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from misstep.core.errors import MissingExtraError, StorageError, UnavailableError
from misstep.store.origin import LIMIT, Origin

if TYPE_CHECKING:
    import psycopg

_SPACE = 0x4D53
"""First key of our advisory locks."""
_SEAL = 0
"""Second key of the lock of seals; the others are origins, which begin at 1."""
SEAL_SECONDS = 60
"""To wait for others' seals before a seal is put off."""
_ANSWER_SECONDS = 10

_TABLE = """
CREATE TABLE IF NOT EXISTS misstep_collectors(
  origin INTEGER PRIMARY KEY GENERATED ALWAYS AS IDENTITY, id TEXT UNIQUE NOT NULL, url TEXT NOT NULL DEFAULT '',
  unsealed BOOLEAN NOT NULL DEFAULT false, since TIMESTAMPTZ NOT NULL DEFAULT now())
"""


class Member(NamedTuple):
    """A collector that may hold rows that the lake does not have yet."""

    origin: Origin
    url: str


class Registry:
    """A collector's place among the others. Safe for any thread."""

    def __init__(self, catalog: str) -> None:
        """Connect.

        Raises:
            UnavailableError: PostgreSQL does not answer.
            MissingExtraError: its client is not installed.
        """
        self._catalog = catalog
        self._own: psycopg.Connection[Any] | None = None
        self.origin: Origin | None = None
        with self._connect() as db, _turn(db):
            db.execute(_TABLE)

    def join(self, folder: Path) -> Origin:
        """Take the place that belongs to a data folder, or a new one.

        Args:
            folder: where the collector's id lies, made at its first start.

        Raises:
            StorageError: another process has this place.
            UnavailableError: PostgreSQL does not answer.
        """
        id = _identity(folder / "collector.id")
        with self._connect() as db:
            db.execute("INSERT INTO misstep_collectors(id) VALUES (%s) ON CONFLICT DO NOTHING", (id,))
            row = db.execute("SELECT origin FROM misstep_collectors WHERE id = %s", (id,)).fetchone()
        number = int(row[0]) if row else 0
        if not 0 < number < LIMIT - 1:
            raise StorageError(f"the catalog has had {number} collectors, more than positions can tell apart")
        self.origin = Origin(number)
        self.hold()
        return self.origin

    def hold(self) -> None:
        """See that the place is still ours; take it again if PostgreSQL was restarted.

        Raises:
            StorageError: another process has it.
            UnavailableError: PostgreSQL does not answer.
        """
        assert self.origin is not None
        if self._own is not None:
            try:
                self._own.execute("SELECT 1")
                return
            except self._errors():
                self._own.close()
                self._own = None
        own = self._connect()
        row = own.execute("SELECT pg_try_advisory_lock(%s, %s)", (_SPACE, self.origin.number)).fetchone()
        if not row or not row[0]:
            own.close()
            raise StorageError(
                f"another process is collector {self.origin.number} of this lake; was its data folder copied?"
            )
        self._own = own

    def announce(self, url: str) -> None:
        """Where the others find what is unsealed here."""
        self._tell("UPDATE misstep_collectors SET url = %s, since = now() WHERE origin = %s", url)

    def mark(self, *, unsealed: bool) -> None:
        """Whether there may be rows that the lake does not have."""
        self._tell("UPDATE misstep_collectors SET unsealed = %s WHERE origin = %s", unsealed)

    def members(self) -> list[Member]:
        """Collectors other than this that may have unsealed rows.

        Raises:
            UnavailableError: PostgreSQL does not answer.
        """
        own = self.origin.number if self.origin else 0
        with self._connect() as db:
            rows = db.execute(
                "SELECT origin, url FROM misstep_collectors WHERE unsealed AND origin <> %s ORDER BY origin",
                (own,),
            ).fetchall()
        return [Member(Origin(int(origin)), str(url)) for origin, url in rows]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Nobody else seals or tidies the lake until it is left.

        Raises:
            StorageError: it did not become our turn, or our place was taken.
        """
        if self.origin is not None:
            self.hold()
        with self._connect() as db, _turn(db):
            yield

    def close(self) -> None:
        """Let go of the place."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def _tell(self, statement: str, value: object) -> None:
        assert self.origin is not None
        try:
            with self._connect() as db:
                db.execute(statement, (value, self.origin.number))
        except self._errors() as error:
            raise UnavailableError(f"the catalog does not answer: {error}") from error

    def _connect(self) -> psycopg.Connection[Any]:
        driver = _driver()
        try:
            connection: psycopg.Connection[Any] = driver.connect(
                self._catalog,
                autocommit=True,
                connect_timeout=_ANSWER_SECONDS,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                application_name="misstep",
                client_encoding="utf8",
            )
            return connection
        except driver.Error as error:
            # libpq's message names the host, never the password.
            raise UnavailableError(f"the catalog does not answer: {error}") from error

    @staticmethod
    def _errors() -> type[Exception]:
        kind: type[Exception] = _driver().Error
        return kind


@contextlib.contextmanager
def _turn(db: psycopg.Connection[Any]) -> Iterator[None]:
    driver = _driver()
    try:
        db.execute(f"SET lock_timeout = '{SEAL_SECONDS}s'")
        # If this machine vanishes, the others must not wait for TCP's two hours.
        db.execute(
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
        )
        db.execute("SELECT pg_advisory_lock(%s, %s)", (_SPACE, _SEAL))
    except driver.Error as error:
        raise StorageError(f"it did not become our turn to write: {error}") from error
    yield


def _identity(path: Path) -> str:
    try:
        if path.exists():
            return path.read_text().strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        id = secrets.token_hex(16)
        beside = path.with_suffix(".new")
        beside.write_text(id + "\n")
        beside.replace(path)
        return id
    except OSError as error:
        raise StorageError(f"cannot keep this collector's id in {path}: {error}") from error


def _driver() -> Any:
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise MissingExtraError("a shared lake", "scale", "psycopg") from error
    return psycopg
