"""What may become an incident and is none yet: the claims that are given time, for whoever asks meanwhile."""

from __future__ import annotations

from typing import Any

from misstep.core.identity import Session
from misstep.diagnosis.explanation import explain
from misstep.diagnosis.window import View, Window


def awaited(view: View, session: str, at: int) -> list[dict[str, Any]]:
    """Claims on a training job that are not ripe, the nearest first; nothing of other sessions.

    Returns:
        For each: ``title`` and ``sentence`` as an incident would say them, ``since_ns`` and ``until_ns`` (Unix
        nanoseconds) between which nothing is said, and ``reason``, why so long.
    """
    if Session.parse(session).kind != "torch":
        return []
    explanations, _ = explain(Window(view, session, at))
    found = [
        {
            "title": claim.title,
            "sentence": claim.sentence,
            "since_ns": min(one.ts for one in claim.decisive),
            "until_ns": claim.until,
            "reason": claim.patience,
        }
        for claim in (one.claim for one in explanations)
        if not claim.ripe and claim.until > at
    ]
    return sorted(found, key=lambda one: (one["until_ns"], one["title"]))
