"""Stacks of many processes at one time, by py-spy; `--nonblocking`, so that nobody is halted for it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

_PATIENCE = 5.0
_LIMIT = 4 * 1024 * 1024
_OURS = "misstep"  # the hook's thread
Stack = list[dict[str, Any]]
"""Threads: ``{"thread": name, "active": bool, "frames": [[function, file, line], …]}``, innermost frame last."""


def program() -> str:
    """Where py-spy is, or empty."""
    folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep)]
    found = (os.path.join(folder, "py-spy") for folder in folders if folder)
    return next((path for path in found if os.access(path, os.X_OK)), "")


def dump(pids: Sequence[int], path: str) -> dict[int, Stack | str]:
    """The stacks of each process, or why there are none, all taken together.

    Args:
        path: from `program`.
    """
    started = {pid: _start(pid, path) for pid in pids}
    deadline = time.monotonic() + _PATIENCE
    return {pid: _collect(child, out, error, deadline) for pid, (child, out, error) in started.items()}


def _start(pid: int, path: str) -> tuple[int, int, int]:
    """posix_spawn, not subprocess: no 2 MiB of module for the agent, and no fork of it."""
    out, write = os.pipe()
    error, complain = os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, write, 1),
        (os.POSIX_SPAWN_DUP2, complain, 2),
    ]
    try:
        child = os.posix_spawn(
            path, [path, "dump", "--json", "--nonblocking", "--pid", str(pid)], os.environ, file_actions=actions
        )  # fmt: skip
    except OSError:
        child = 0
    os.close(write)
    os.close(complain)
    return child, out, error


def _collect(child: int, out: int, error: int, deadline: float) -> Stack | str:
    try:
        text = _drain(out, deadline)
        said = _drain(error, deadline)
    finally:
        os.close(out)
        os.close(error)
        if child:
            _reap(child, deadline)
    try:
        held = json.loads(text)
        return [_thread(one) for one in held if one.get("thread_name") != _OURS]
    except (ValueError, TypeError, KeyError, AttributeError):
        return reason(said.decode("utf-8", "replace"))


def reason(said: str) -> str:
    """Why py-spy gave no stacks, out of what it wrote: its backtrace of itself is left out."""
    lines = [line.strip() for line in said.partition("Stack backtrace")[0].splitlines()]
    text = "; ".join(line.removeprefix("Error: ").removeprefix("Reason: ") for line in lines if line)
    return text[:300] or "py-spy said nothing"


def _thread(held: dict[str, Any]) -> dict[str, Any]:
    frames = [[str(f["name"]), str(f["filename"]), int(f["line"])] for f in reversed(held["frames"][:200])]
    main = held.get("os_thread_id") == held.get("pid")  # without `threading` nobody has a name
    name = str(held.get("thread_name") or ("MainThread" if main else held.get("os_thread_id")) or "")
    return {"thread": name, "active": bool(held.get("active")), "gil": bool(held.get("owns_gil")), "frames": frames}  # fmt: skip


def _drain(pipe: int, deadline: float) -> bytes:
    import select

    held = b""
    while len(held) < _LIMIT:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([pipe], [], [], max(0.0, left))
        if not ready:
            return held
        part = os.read(pipe, 65536)
        if not part:
            return held
        held += part
    return held


def _reap(child: int, deadline: float) -> None:
    import signal

    while True:
        pid, _ = os.waitpid(child, os.WNOHANG)
        if pid:
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.005)
