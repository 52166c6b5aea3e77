"""How a session stands: what could not be seen of it, its tasks and actors in numbers, and whether all evidence is in."""

from __future__ import annotations

from collections import Counter
from typing import Any

from misstep.core import names
from misstep.core.clock import SECOND
from misstep.store.rows import SessionRow
from misstep.store.view import View

SETTLE_SECONDS = 3
"""Ray's workers send their events once a second and its GCS twice, so what belongs to an end is in after these."""

_COUNTED = {
    "tasks": "task",
    "actors": "actor",
    "workers": "ray_worker",
    "nodes": "ray_node",
    "jobs": "job",
    "ranks": "rank",
}
_TELLING = tuple(
    e.name
    for e in names.EVENTS
    if e.name.startswith(("ray.", "process.", "command.", "kernel.oom", "kernel.seg"))
)
_ENDED = ("FINISHED", "STOPPED", "SUCCEEDED", "FAILED")


def unseen(view: View, session: str) -> list[dict[str, str]]:
    """Sources that cannot be read now, of the session's hosts, with the reason and the command that opens them."""
    newest: dict[tuple[str, str], tuple[str, dict[str, str]]] = {}
    # One record says it again each 30 s, so the newest few hundred hold every source of every host.
    for scope in ("", session):
        rows = view.logs(session=scope, events=["source.state"], limit=500, newest=True)
        for row in sorted(rows, key=lambda r: (r.seq, r.row)):
            source = row.attributes.get(names.SOURCE, "")
            if source.startswith("ray_") and not scope:
                continue  # of a machine, this says whether any Ray runs there now
            newest[(row.entity, source)] = (row.state, row.attributes)
    gaps = {
        (source, a.get(names.SOURCE_REASON, ""), a.get(names.SOURCE_REMEDY, ""))
        for (_, source), (state, a) in newest.items()
        if state != "ok"
    }
    return [{"source": s, "reason": r, "remedy": m} for s, r, m in sorted(gaps)]


def summary(view: View, session: str) -> dict[str, dict[str, int]]:
    """Tasks, actors, workers, nodes, jobs and ranks of a session by state."""
    found: dict[str, dict[str, int]] = {}
    for title, kind in _COUNTED.items():
        states = Counter(row.state or "unknown" for row in view.entities(session=session, kind=kind))
        found[title] = dict(sorted(states.items()))
    return found


def settled(view: View, session: SessionRow, tick: int) -> bool:
    """Whether nothing more is to be expected: the session or all its drivers are over, and that was diagnosed."""
    last = _last_word(view, session)
    return last is not None and tick >= last + SETTLE_SECONDS * SECOND


def _last_word(view: View, session: SessionRow) -> int | None:
    """When the last record of a finished session was received; None while a driver lives."""
    if session.ended is None:
        jobs = view.entities(session=session.session, kind="job")
        if not jobs or any(job.ended is None and job.state not in _ENDED for job in jobs):
            return None
    rows = view.logs(session=session.session, events=[*_TELLING, "session.end"], limit=1, newest=True)
    return max((row.received for row in rows), default=session.heard)


def schema() -> dict[str, Any]:
    """JSON schema of `summary`."""
    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    return {"type": "object", "properties": dict.fromkeys(_COUNTED, counts), "additionalProperties": False}
