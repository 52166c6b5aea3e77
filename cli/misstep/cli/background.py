"""Starts `misstep up` in the background, for commands that need it when nobody started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from misstep.cli import endpoint
from misstep.cli.terminal import say
from misstep.core.errors import StorageError, UnavailableError

TIMEOUT = 90.0
"""Seconds until collector and agent of a slow machine must serve."""


def log_file(data: Path) -> Path:
    """Where an `up` in the background writes what it would say."""
    return data / "up.log"


def agent(data: Path, config: Path | None = None) -> str:
    """The address of this machine's agent; starts `misstep up` in the background if none answers, and says so.

    Raises:
        UnavailableError: it cannot be started, or this machine has no agent (it is not Linux).
    """
    found = endpoint.find(data)
    if found is None or "agent" not in found:
        found = start(data, () if config is None else ("--config", str(config.absolute())))
        say(
            f"misstep: started `misstep up` in the background (pid {found['pid']}); stop it with: kill {found['pid']}"
        )
    if "agent" not in found:
        raise UnavailableError("this machine has no agent: it needs Linux")
    return str(found["agent"])


def start(data: Path, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Start `misstep up` as a process of its own and wait until it serves; returns its addresses.

    Raises:
        UnavailableError: it ended, or did not serve in time; the message has its last words.
        StorageError: the data folder cannot be written.
    """
    log = log_file(data)
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "misstep.cli", "up", "--data", str(data), *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise StorageError(f"cannot write {log}: {error.strerror}") from error
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        # Another `up` may have won the race for the data folder: its addresses serve as well.
        found = endpoint.find(data)
        if found is not None and found["data"] == str(data) and ("agent" in found or sys.platform != "linux"):
            return found
        if process.poll() is not None:
            raise UnavailableError(f"misstep up ended at once:\n{_last_words(log)}")
        time.sleep(0.05)
    process.terminate()
    raise UnavailableError(f"misstep up did not serve within {TIMEOUT:g} s; see {log}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-8:]
    return "\n".join(f"  {line}" for line in lines) or "  (it said nothing)"
