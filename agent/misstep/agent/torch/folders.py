"""Where ranks put their sockets. A socket's path ends at 107 bytes, so these folders are short."""

from __future__ import annotations

import os
from collections.abc import Mapping

from misstep.core.clock import SECOND

_COARSE = 2 * SECOND


def own(environ: Mapping[str, str]) -> str:
    """The folder of this user's ranks: below ``$XDG_RUNTIME_DIR``, else below ``/tmp``."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    base = f"{runtime}/misstep" if runtime and os.path.isdir(runtime) else f"/tmp/misstep-{os.geteuid()}"
    return f"{base}/torch"


class Folders:
    """The folders that an agent looks into: the one that is set, else its user's own, and for root everybody's."""

    def __init__(self, setting: str) -> None:
        self._own = setting or own(os.environ)
        self._everybody = not setting and os.geteuid() == 0
        self._paths = [self._own]
        self._stamps: dict[str, int] = {}
        self._users: dict[str, list[str]] = {}

    def search(self, now: int) -> None:
        """Look which users have one; Unix nanoseconds."""
        if not self._everybody:
            return
        for base, form in (("/run/user", "{}/misstep/torch"), ("/tmp", "{}/torch")):
            if self._has_changed(base, now):
                names = [name for name in os.listdir(base) if base != "/tmp" or name.startswith("misstep-")]
                self._users[base] = [f"{base}/{form.format(name)}" for name in names]
        others = [path for paths in self._users.values() for path in paths if os.path.isdir(path)]
        self._paths = sorted({self._own, *others})

    def changed(self, now: int) -> list[str]:
        """Those in which something may have come or gone since the last call."""
        return [path for path in self._paths if self._has_changed(path, now)]

    def _has_changed(self, folder: str, now: int) -> bool:
        try:
            stamp = os.stat(folder).st_mtime_ns
        except OSError:
            return False
        before, self._stamps[folder] = self._stamps.get(folder), stamp
        # A file system's clock is coarse: what came a moment after the last look may bear the same time.
        return stamp != before or abs(now - stamp) < _COARSE
