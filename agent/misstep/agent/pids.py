"""What tells one process from a later one with the same pid."""

from __future__ import annotations

import os


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat, clock ticks since boot; 0 when there is no such process."""
    return _number(pid, 19)


def parent(pid: int) -> int:
    """Pid of a process's parent; 0 when there is none or no such process."""
    return _number(pid, 1)


def is_running(pid: int, start: int) -> bool:
    """Whether the process that began at `start` (ticks) is there and no zombie."""
    field = _fields(pid)
    return len(field) > 19 and field[0] != b"Z" and field[19] == b"%d" % start


def _number(pid: int, after_name: int) -> int:
    try:
        return int(_fields(pid)[after_name])
    except (ValueError, IndexError):
        return 0


def _fields(pid: int) -> list[bytes]:
    """The fields after the name, the state first; the name in parentheses may hold anything, parentheses included."""
    try:
        held = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(held, 1024).rpartition(b")")[2].split()
    except OSError:
        return []  # it went between the two calls
    finally:
        os.close(held)
