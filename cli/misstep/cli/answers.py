"""Asks the collector for a verdict, and waits where the evidence of what just ended is still on its way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from misstep.core.client import Client
from misstep.core.clock import SECOND

Answer = dict[str, Any]

PATIENCE = 10.0
"""Seconds; what is not in by then does not come."""
LAG = 3
"""Seconds: Ray's workers send their events once a second, its GCS each two, and diagnosis ticks each second."""
PAUSE = 0.25

_OVER = ("FINISHED", "STOPPED", "SUCCEEDED", "FAILED")


def ask(client: Client, session: str, at: int | None = None) -> Answer:
    """What ``incidents`` says of a session, as of `at` (Unix nanoseconds) or now."""
    answer: Answer = client.get("incidents", session=session, at=at, limit=10_000)
    return answer


def settle(
    client: Client,
    session: str,
    progress: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Answer:
    """The answer once nothing more can change it, at the latest after `PATIENCE`.

    Where all drivers are gone, that is when the collector says settled. Where one runs on, an incident that
    stands is said at once; before silence is said, diagnosis must have seen the moment of the question.
    """
    began = monotonic()
    answer = ask(client, session)
    asked = int(answer["as_of_ns"])
    while not answer["settled"] and monotonic() - began < PATIENCE:
        if _drivers_over(answer["summary"]):
            progress("the job just ended; waiting for its last records")
        elif answer["incidents"] or int(answer["as_of_ns"]) >= asked + LAG * SECOND:
            return answer
        else:
            progress("looking at the last seconds")
        sleep(PAUSE)
        answer = ask(client, session)
    return answer


def _drivers_over(summary: Mapping[str, Any]) -> bool:
    jobs = summary.get("jobs") or {}
    return bool(jobs) and all(state in _OVER for state in jobs)
