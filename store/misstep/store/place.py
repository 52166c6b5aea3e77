"""Where the lake lies: catalog and data, and how DuckDB gets there.

Embedded, the catalog is a SQLite file that we create in WAL mode (in SQLite's default mode readers starve the writer) and
the data a folder beside it. Shared, the catalog is PostgreSQL and the data a folder that all see, or S3. The extensions
come as wheels of exactly DuckDB's version and are loaded by path, so nothing is downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import duckdb

from misstep.core.errors import MissingExtraError, SettingsError

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Checking the signature reads 40 MB at each start; pip has checked the wheel, and nothing else is ever loaded.
    "allow_unsigned_extensions": "true",
}
"""How every DuckDB of ours is started."""


@dataclass(frozen=True)
class Place:
    """A lake's place.

    Attributes:
        folder: this process's own folder; catalog and data lie in it unless said otherwise.
        catalog: connection string of PostgreSQL; empty means a SQLite file in the folder. It may hold a password.
        data: another folder, or ``s3://bucket/prefix``; empty means in the folder.
    """

    folder: Path
    catalog: str = field(default="", repr=False)
    data: str = ""

    def __post_init__(self) -> None:
        if self.remote and not self.catalog:
            raise SettingsError(
                "store.data on S3 needs store.catalog: a catalog on this disk alone would lose it"
            )

    @property
    def shared(self) -> bool:
        """Whether other collectors may write here too."""
        return bool(self.catalog)

    @property
    def remote(self) -> bool:
        """Whether the data lies where we cannot walk or sync files."""
        return self.data.startswith("s3://")

    @property
    def files(self) -> Path:
        """The folder of the data; of no use where it is remote."""
        return Path(self.data) if self.data else self.folder / "data"

    @property
    def data_path(self) -> str:
        """Where the data lies as DuckDB is told, with a slash at its end."""
        return (self.data.rstrip("/") if self.data else str(self.folder / "data")) + "/"

    def create(self) -> None:
        """Make what must be there before anything can be attached.

        Raises:
            OSError, sqlite3.Error: the disk refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.remote:
            self.files.mkdir(parents=True, exist_ok=True)
        if not self.shared:
            with sqlite3.connect(self.folder / "catalog.sqlite") as db:
                db.execute("PRAGMA journal_mode=WAL")
            db.close()

    def attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool = False) -> None:
        """Load what it takes and attach the lake as ``lake``.

        Raises:
            MissingExtraError: an extension is not installed.
            duckdb.Error: the catalog does not answer or is damaged.
        """
        names = [
            "postgres_scanner" if self.shared else "sqlite_scanner",
            *(["httpfs"] if self.remote else []),
        ]
        for name in (*names, "ducklake"):
            connection.execute(f"LOAD '{extension(name)}'")
        if self.remote:
            connection.execute(secret(os.environ))
        connection.execute(self.statement(read_only=read_only))

    def statement(self, *, read_only: bool = False) -> str:
        """The statement that attaches it."""
        options = f"DATA_PATH {_quoted(self.data_path)}" + (", READ_ONLY" if read_only else "")
        if self.shared:
            return f"ATTACH {_quoted('ducklake:postgres:' + self.catalog)} AS lake ({options})"
        # The catalog remembers where the data lay; a folder that was moved or restored is read where it is now.
        source = f"ducklake:sqlite:{self.folder / 'catalog.sqlite'}"
        return f"ATTACH {_quoted(source)} AS lake ({options}, OVERRIDE_DATA_PATH true)"


def attachment(folder: Path, *, read_only: bool = False) -> str:
    """The statement that attaches an embedded lake as ``lake``."""
    return Place(folder).statement(read_only=read_only)


def load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Load DuckLake and its SQLite catalog from the installed wheels."""
    for name in ("sqlite_scanner", "ducklake"):
        connection.execute(f"LOAD '{extension(name)}'")


def secret(environ: Mapping[str, str]) -> str:
    """S3's credentials out of the variables that every S3 client reads."""
    found = {
        "KEY_ID": environ.get("AWS_ACCESS_KEY_ID"),
        "SECRET": environ.get("AWS_SECRET_ACCESS_KEY"),
        "SESSION_TOKEN": environ.get("AWS_SESSION_TOKEN"),
        "REGION": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
    }
    parts = [f"{key} {_quoted(value)}" for key, value in found.items() if value]
    address = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if address:
        url = urlsplit(address)
        encrypted = "true" if url.scheme == "https" else "false"
        parts += [f"ENDPOINT {_quoted(url.netloc)}", "URL_STYLE 'path'", f"USE_SSL {encrypted}"]
    return f"CREATE OR REPLACE SECRET misstep_s3 (TYPE s3, {', '.join(parts)})" if parts else "SELECT 1"


@functools.cache
def extension(name: str) -> str:
    """Path of an extension in its wheel, as SQL wants it.

    Raises:
        MissingExtraError: it is not installed.
    """
    package = f"duckdb_extension_{name}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        extra = "store" if name in ("ducklake", "sqlite_scanner") else "scale"
        raise MissingExtraError("the store" if extra == "store" else "a shared lake", extra, package)
    folder = Path(next(iter(spec.submodule_search_locations)))
    return str(next(folder.rglob(f"v{duckdb.__version__}/{name}.duckdb_extension"))).replace("'", "''")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
