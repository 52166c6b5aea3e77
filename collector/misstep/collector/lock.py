"""One collector per data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from misstep.core.errors import StorageError, UnavailableError


class FolderLock:
    """Holds a data folder until it is closed or the process ends, however it ends.

    Args:
        folder: made if it is not there, closed to other users.

    Raises:
        UnavailableError: another process holds it.
        StorageError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "collector.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"cannot keep data in {folder}: {error.strerror}; choose another with --data"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 20).decode(errors="replace").strip()
            os.close(self._descriptor)
            named = f"process {holder}" if holder.isdigit() else "another process"
            raise UnavailableError(
                f"the data in {folder} belongs to a collector that runs already ({named}); "
                "stop it, or choose another folder with --data"
            ) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            # A full disk: the lock holds all the same, only the process id is missing from messages.
            pass

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
