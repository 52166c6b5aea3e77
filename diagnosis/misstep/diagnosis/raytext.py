"""Reads what Ray itself says of deaths: exit details, error messages and its memory monitor's report.

The texts are those of Ray 2.60 (`src/ray/raylet/worker_killing_policy*.cc`, `src/ray/gcs/…`, and
`python/ray/exceptions.py`), and what older versions wrote where that is known. What a text does not tell
stays 0 or empty.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EXIT_CODE = re.compile(r"exit(?:s with an)? (?:exit )?code (\d+)")
_EXIT_TYPE = re.compile(r"Worker exit type: (\w+)")
_EXIT_DETAIL = re.compile(r"Worker exit detail: (.*)", re.DOTALL)
_GUESSES = re.compile(
    r"\s*(?:There are some potential root causes\.|Some common causes include:).*", re.DOTALL
)
_FIELD = re.compile(r"^\s*(class_name|actor_id|pid|name|namespace|ip): (.*)$", re.MULTILINE)
_NODE_USED = re.compile(
    r"Memory on the node \(IP: ([^,]+), ID: ([0-9a-f]+)[^)]*\)[^0-9]*([\d.]+)GB(?: used)? ?/ ?([\d.]+)GB"
)
_LIMIT = re.compile(r"Memory usage (\d+)B exceeded threshold of (\d+)B \(([\d.]+)% of (\d+)B")
_VICTIM = re.compile(
    r"Selected to kill: \((?:Task|Actor)[^\n]*?(?:task|actor) name=(?P<name>[^,]*),[^\n]*?pid=(?P<pid>\d+), "
    r"actual memory used=(?P<gb>[\d.]+)GB, worker ID=(?P<worker>[0-9a-f]+)"
)
_USER = re.compile(r"^(\d+)\t([\d.]+)\t(.*)$", re.MULTILINE)
_NODE_ID = re.compile(r"node(?: ?id)?[^0-9a-f]{1,12}([0-9a-f]{56})", re.IGNORECASE)
_SHUTDOWN = ("INTENDED_USER_EXIT", "INTENDED_SYSTEM_EXIT")
GIB = 1024**3


class Victim(NamedTuple):
    """A worker that the memory monitor chose."""

    name: str
    pid: int
    used: int
    worker: str


class MemoryKill(NamedTuple):
    """The memory monitor's report; sizes in bytes.

    Attributes:
        mark: the exact number of bytes in use at the decision, the same in every text about it.
        users: the largest processes as (pid, bytes, command), largest first.
    """

    node: str
    ip: str
    used: int
    limit: int
    threshold: int
    mark: int
    victims: tuple[Victim, ...]
    users: tuple[tuple[int, int, str], ...]

    @property
    def percent(self) -> float:
        """The threshold in percent of the memory that Ray counts as the node's."""
        return 100.0 * self.threshold / self.limit if self.limit else 0.0


class ActorDeath(NamedTuple):
    """What `ActorDiedError` tells of its actor."""

    class_name: str
    actor: str
    pid: int
    ip: str
    exit_type: str
    detail: str


def exit_code(detail: str) -> int | None:
    """The exit code that Ray's exit detail names, if it names one."""
    match = _EXIT_CODE.search(detail)
    return int(match[1]) if match else None


def end_signal(detail: str) -> str:
    """The signal that ended a worker as Ray's exit detail tells it, or empty.

    Ray's handler turns SIGTERM into an exit with code 1, which is therefore no code of the worker's own.
    """
    return "SIGTERM" if "receives a SIGTERM" in detail else ""


def without_guesses(detail: str) -> str:
    """Ray's exit detail without the causes that it lists as possible: they are guesses, not evidence."""
    return _GUESSES.sub("", detail).strip()


def intended(exit_type: str) -> bool:
    """Whether a worker ended because somebody wanted it to."""
    return exit_type in _SHUTDOWN or exit_type.startswith("INTENDED")


def actor_death(text: str) -> ActorDeath | None:
    """What an actor's death message tells, or None if it is no such message."""
    if "ctor" not in text or not ("died" in text or "dead" in text):
        return None
    fields = {key: value.strip() for key, value in _FIELD.findall(text)}
    kind = _EXIT_TYPE.search(text)
    detail = _EXIT_DETAIL.search(text)
    pid = fields.get("pid", "")
    return ActorDeath(
        class_name=fields.get("class_name", ""),
        actor=fields.get("actor_id", ""),
        pid=int(pid) if pid.isdigit() else 0,
        ip=fields.get("ip", ""),
        exit_type=kind[1] if kind else "",
        detail=without_guesses(detail[1]) if detail else "",
    )


def memory_kill(text: str) -> MemoryKill | None:
    """The memory monitor's report in a text, or None if it holds none."""
    if "running low on memory" not in text and "OOM kill reason" not in text:
        return None
    node = _NODE_USED.search(text)
    limit = _LIMIT.search(text)
    victims = tuple(
        Victim(match["name"].strip(), int(match["pid"]), int(float(match["gb"]) * GIB), match["worker"])
        for match in _VICTIM.finditer(text)
    )
    users = tuple(
        (int(pid), int(float(gb) * GIB), command.strip()) for pid, gb, command in _USER.findall(text)
    )
    total = int(limit[4]) if limit else int(float(node[4]) * GIB) if node else 0
    return MemoryKill(
        node=node[2] if node else "",
        ip=node[1].strip() if node else "",
        used=int(limit[1]) if limit else int(float(node[3]) * GIB) if node else 0,
        limit=total,
        threshold=int(limit[2]) if limit else 0,
        mark=int(limit[1]) if limit else 0,
        victims=victims,
        users=users,
    )


def node_id(text: str) -> str:
    """The id of a node (56 hex digits) that a message names, or empty."""
    match = _NODE_ID.search(text)
    return match[1] if match else ""
