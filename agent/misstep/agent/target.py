"""Where the collector is: a setting, or the endpoint file that `misstep up` writes."""

from __future__ import annotations

import json
import os
from typing import NamedTuple
from urllib.parse import urlsplit

from misstep.core.errors import SettingsError


class Target(NamedTuple):
    """A collector's address, taken apart."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}{self.path}"


def parse(url: str) -> Target:
    """Take a URL apart.

    Raises:
        SettingsError: it is not http(s)://host[:port][/path].
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"collector URL {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"collector URL {url!r}: write http://host:port or https://host:port")
    return Target(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


class Finder:
    """Tells the collector's address, and reads the endpoint file again when it changes.

    Args:
        url: the setting; empty means the endpoint file.
        endpoint: path of that file.

    Raises:
        SettingsError: the setting is not a URL.
    """

    def __init__(self, url: str, endpoint: str) -> None:
        self._fixed = parse(url) if url else None
        self._endpoint = endpoint
        self._stamp: tuple[int, int, int] | None = None
        self._found: Target | None = None

    def find(self) -> Target | None:
        """The address, or None while there is no readable endpoint file."""
        if self._fixed is not None:
            return self._fixed
        try:
            held = os.stat(self._endpoint)
        except OSError:
            self._stamp = self._found = None
            return None
        stamp = (held.st_mtime_ns, held.st_ino, held.st_size)
        if stamp != self._stamp:
            self._found = self._read()
            self._stamp = stamp
        return self._found

    def missing(self) -> str:
        """What to tell a person while `find` gives None."""
        return f"no collector is known: {self._endpoint} names none"

    def _read(self) -> Target | None:
        try:
            with open(self._endpoint, encoding="utf-8") as file:
                return parse(str(json.load(file)["collector"]))
        except (OSError, ValueError, KeyError, TypeError, SettingsError):
            return None
