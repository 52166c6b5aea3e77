"""Which session a person means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from misstep.core.client import Client
from misstep.core.errors import UnavailableError

Session = Mapping[str, Any]


def pick(sessions: Sequence[Session], wanted: str | None) -> Session | None:
    """The session that `wanted` names (whole, its cluster, or an end of it), else the newest that lives.

    Where several fit, the newest is meant; None if none fits.
    """
    fitting = [s for s in sessions if wanted is None or _fits(str(s["session"]), wanted)]
    return max(fitting, key=lambda s: (s["state"] == "live", s["started_ns"], s["session"]), default=None)


def choose(client: Client, wanted: str | None) -> Session:
    """Ask the collector and pick.

    Raises:
        UnavailableError: there is none; the message says what there is.
    """
    sessions = pages(client, "sessions", "sessions")
    found = pick(sessions, wanted)
    if found is not None:
        return found
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
        or (len(parts) == 4 and parts[3].startswith(wanted))
    )
