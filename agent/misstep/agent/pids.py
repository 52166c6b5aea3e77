"""What tells one process from a later one with the same pid."""

from __future__ import annotations


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat, clock ticks since boot; 0 when there is no such process."""
    return _field(pid, 19)


def parent(pid: int) -> int:
    """Pid of a process's parent; 0 when there is none or no such process."""
    return _field(pid, 1)


def state(pid: int) -> str:
    """State letter, ``Z`` for a zombie; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b")")[2].split()[0][0])
    except (OSError, IndexError):
        return ""


def _field(pid: int, after_name: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may hold anything, parentheses included.
            return int(file.read().rpartition(b")")[2].split()[after_name])
    except (OSError, ValueError, IndexError):
        return 0
