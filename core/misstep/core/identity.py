"""Who is who: sessions, entities and the intervals in which a relation holds.

An entity is written ``kind/id`` on the wire and in the store, for example ``ray_worker/3e3b…`` or
``process/5f1c9a/21877/81233``. A session is one life of one cluster and is written
``site/kind/name/started``.
"""

from __future__ import annotations

from typing import NamedTuple

ENTITY_KINDS = (
    "site", "cluster", "session", "host", "ray_node", "kubernetes_node", "gpu", "nic", "link", "pod",
    "container", "process", "ray_worker", "job", "task", "actor", "rank", "group", "object", "resource",
)  # fmt: skip


class Entity(NamedTuple):
    """Something that can act or be blamed."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> Entity:
        """Read ``kind/id``; the id may hold further slashes.

        Raises:
            ValueError: there is no id, or the kind is not one of `ENTITY_KINDS`.
        """
        kind, _, id = text.partition("/")
        if kind not in ENTITY_KINDS or not id:
            raise ValueError(
                f"not an entity: {text!r}; write kind/id with a kind of {', '.join(ENTITY_KINDS)}"
            )
        return cls(kind, id)


class Session(NamedTuple):
    """One life of one cluster: a Ray session, a torchrun job, a Slurm job."""

    site: str
    kind: str
    name: str
    started: str

    def __str__(self) -> str:
        return "/".join(self)

    @classmethod
    def parse(cls, text: str) -> Session:
        """Read ``site/kind/name/started``.

        Raises:
            ValueError: the text does not have four parts.
        """
        parts = text.split("/")
        if len(parts) != 4 or not all(parts):
            raise ValueError(f"not a session: {text!r}; write site/kind/name/started")
        return cls(*parts)


class Interval(NamedTuple):
    """A stretch of time, Unix nanoseconds, start included; an open end is None."""

    start: int
    end: int | None = None

    def contains(self, at: int) -> bool:
        """Whether the moment lies in it."""
        return self.start <= at and (self.end is None or at < self.end)

    def overlaps(self, other: Interval) -> bool:
        """Whether the two share a moment."""
        return (self.end is None or other.start < self.end) and (other.end is None or self.start < other.end)


def process_id(host_id: str, pid: int, start_ticks: int) -> str:
    """The id of a process entity: pids are reused, a pid with its start (clock ticks since boot) on a host is not."""
    return f"{host_id[:12]}/{pid}/{start_ticks}"


def ray_session(site: str, cluster: str, session_name: str) -> Session:
    """Our session for a Ray ``session_2026-11-20_09-49-30_276594_21621``; Ray's name is unique on its own."""
    return Session(site, "ray", cluster, session_name.removeprefix("session_"))
