"""Which session a person means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from misstep.cli.terminal import say
from misstep.core.client import Client
from misstep.core.clock import SECOND
from misstep.core.errors import UnavailableError

Session = Mapping[str, Any]

RECENT = 600 * SECOND
"""Nanoseconds for which a cluster that ended counts like one that lives: what just failed is what is asked about."""


def pick(sessions: Sequence[Session], wanted: str | None) -> Session | None:
    """The session that `wanted` names (whole or a part of it), else the newest that lives or just ended and sends us its events.

    Where several fit, the newest is meant; None if none fits.
    """
    return next(iter(candidates(sessions, wanted)), None)


def candidates(sessions: Sequence[Session], wanted: str | None) -> list[Session]:
    """The sessions that may be meant, the best first."""
    fitting = [s for s in sessions if wanted is None or _fits(str(s["session"]), wanted)]
    newest = max((s["heard_ns"] for s in fitting), default=0)
    current = [s for s in fitting if s["state"] == "live" or s["heard_ns"] >= newest - RECENT]
    # What was put under watch on purpose comes before what was only found on the machine.
    return sorted(
        current,
        key=lambda s: (s["attributes"].get("ray.events") == "yes", s["started_ns"], s["session"]),
        reverse=True,
    )


def choose(client: Client, wanted: str | None) -> Session:
    """Ask the collector and pick.

    Raises:
        UnavailableError: there is none; the message says what there is.
    """
    sessions = pages(client, "sessions", "sessions")
    found = candidates(sessions, wanted)
    if found:
        if len(found) > 1 and wanted is None:
            others = ", ".join(str(s["session"]).rpartition("/")[2][:19] for s in found[1:4])
            say(
                f"misstep: {len(found)} clusters are here; this is {found[0]['session']}; others by name: {others}"
            )
        return found[0]
    if wanted is None:
        raise UnavailableError("no cluster was seen yet. Run something: misstep run -- python my_script.py")
    names = "\n".join(f"  {s['session']}" for s in sorted(sessions, key=lambda s: -s["started_ns"])[:8])
    raise UnavailableError(f"no session is called {wanted!r}." + (f" Known, newest first:\n{names}" if names else ""))  # fmt: skip


def pages(client: Client, path: str, key: str, **query: object) -> list[dict[str, Any]]:
    """All entries of a list of the API, page by page."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        answer = client.get(path, **query, cursor=cursor, limit=10_000)
        found += answer[key]
        cursor = answer["cursor"]
        if cursor is None:
            return found


def _fits(session: str, wanted: str) -> bool:
    parts = session.split("/")
    return (
        session == wanted
        or session.endswith("/" + wanted)
        or session.startswith(wanted + "/")
        or wanted in parts
        or (len(parts) == 4 and len(wanted) >= 4 and wanted in parts[3])
    )
