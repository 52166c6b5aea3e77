"""Release mode: for a while nothing of ours holds NVML, so that a GPU can be reset or the driver be unloaded.

A file in the agent's folder says so; it survives the agent, and whoever cannot ask the agent can `touch` it.
"""

from __future__ import annotations

import os

from misstep.core.clock import SECOND

FILE = "gpu-released"
LASTS = 15 * 60 * SECOND
"""So long the file counts from the time of its last change, so that a forgotten one ends by itself."""
LONGEST = 24 * 3600.0


class Release:
    """The file of one agent.

    Args:
        folder: the agent's.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, FILE)

    def until(self, now: int) -> int:
        """Until when GPUs are released, Unix nanoseconds; 0 while they are not."""
        try:
            end = os.stat(self.path).st_mtime_ns + LASTS
        except OSError:
            return 0
        return end if now < end else 0

    def begin(self, until: int) -> None:
        """Release them until then.

        Raises:
            OSError: the folder cannot be written.
        """
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        os.utime(self.path, ns=(until - LASTS, until - LASTS))

    def end(self) -> None:
        """Take them back.

        Raises:
            OSError: the folder cannot be written.
        """
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
