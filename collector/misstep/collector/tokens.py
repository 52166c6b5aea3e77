"""Bearer tokens: random, stored hashed in ``tokens.json`` of the data folder, each with its scopes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

from misstep.core.errors import SettingsError, StorageError

SCOPES = ("ingest", "read", "admin")
"""What a token may do: send telemetry, ask questions, everything."""

TOKENS_FILE = "tokens.json"
"""In the data folder."""

_RELOAD_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Tokens:
    """The tokens of one data folder; a change of the file is seen within a second.

    Args:
        path: ``tokens.json``; it need not exist.

    Raises:
        SettingsError: the file is damaged, or others than its owner may read or write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scopes: dict[str, frozenset[str]] = {}
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0
        self._load()

    def __len__(self) -> int:
        return len(self._scopes)

    def scopes(self, token: str) -> frozenset[str] | None:
        """What a token may do; None for one that nobody issued."""
        if time.monotonic() - self._looked > _RELOAD_SECONDS:
            self._reload()
        # The digest of 256 random bits is looked up, not the token: timing tells nothing of use.
        return self._scopes.get(_digest(token))

    def create(self, name: str, scopes: tuple[str, ...]) -> str:
        """Issue a token and store its hash.

        Returns:
            The token, which cannot be read again.

        Raises:
            SettingsError: a scope is unknown.
            StorageError: the file cannot be written.
        """
        unknown = [s for s in scopes if s not in SCOPES]
        if unknown or not scopes:
            raise SettingsError(
                f"unknown scope {', '.join(unknown) or '(none)'}; scopes are {', '.join(SCOPES)}"
            )
        token = "misstep_" + secrets.token_urlsafe(32)
        entry = {"name": name, "hash": _digest(token), "scopes": list(scopes), "created_ns": time.time_ns()}
        entries = [*_entries(self.path), entry]
        _write(self.path, json.dumps({"tokens": entries}, indent=1))
        self._load()
        return token

    def _reload(self) -> None:
        try:
            self._load()
        except SettingsError as error:
            if self._scopes:
                _log.warning("no token is accepted until this is mended: %s", error)
            self._scopes, self._stamp = {}, None

    def _load(self) -> None:
        self._looked = time.monotonic()
        try:
            status = self.path.stat()
        except OSError:
            self._scopes, self._stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        if status.st_mode & 0o077:
            raise SettingsError(
                f"{self.path} is open to others (mode {status.st_mode & 0o777:o}); close it with: chmod 600 {self.path}"
            )
        self._scopes = {
            str(e["hash"]): frozenset(e["scopes"]) & frozenset(SCOPES) for e in _entries(self.path)
        }
        self._stamp = stamp


def _digest(token: str) -> str:
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text())["tokens"]
        return [
            {
                "name": str(e["name"]),
                "hash": e["hash"],
                "scopes": list(e["scopes"]),
                "created_ns": e["created_ns"],
            }
            for e in entries
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is damaged ({error!r}); move it away and issue new tokens") from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
