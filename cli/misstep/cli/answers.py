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
CATCH_UP = 60.0
"""Seconds to wait for a diagnosis that has not yet seen what is stored: the machine is busy, or has just
started to read an old journal. Silence about what nobody looked at would be a lie."""
LAG = 3
"""Seconds: Ray's workers send their events once a second, its GCS each two, and diagnosis ticks each second."""
PAUSE = 0.25

_OVER = ("FINISHED", "STOPPED", "SUCCEEDED", "FAILED")


def ask(client: Client, session: str, at: int | None = None) -> Answer:
    """What ``incidents`` says of a session, as of `at` (Unix nanoseconds) or now."""
    answer: Answer = client.get("incidents", session=session, at=at, limit=10_000)
    return answer


def behind(answer: Mapping[str, Any], session: Mapping[str, Any]) -> float:
    """Seconds of the session that were heard and not yet diagnosed."""
    if answer["settled"]:
        return 0.0
    return max(0.0, (int(session["heard_ns"]) - int(answer["as_of_ns"])) / SECOND)


def settle(
    client: Client,
    session: Mapping[str, Any],
    progress: Callable[[str], None],
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Answer:
    """The answer once nothing more can change it, at the latest after `PATIENCE`, or `CATCH_UP`.

    Where all drivers are gone, that is when the collector says settled. Where one runs on, an incident that
    stands is said at once; before silence is said, diagnosis must have seen the moment of the question.
    """
    began = monotonic()
    name = str(session["session"])
    answer = ask(client, name)
    asked = max(int(answer["as_of_ns"]), int(session["heard_ns"]))
    while not answer["settled"]:
        passed, late = monotonic() - began, behind(answer, session)
        if passed >= (CATCH_UP if late > LAG else PATIENCE):
            break
        if late > LAG:
            progress(f"diagnosis is {late:.0f} s behind and catching up")
        elif _drivers_over(answer["summary"]):
            progress("the job just ended; waiting for its last records")
        elif answer["incidents"] or int(answer["as_of_ns"]) >= asked + LAG * SECOND:
            return answer
        else:
            progress("looking at the last seconds")
        sleep(PAUSE)
        answer = ask(client, name)
    return answer


def _drivers_over(summary: Mapping[str, Any]) -> bool:
    jobs = summary.get("jobs") or {}
    return bool(jobs) and all(state in _OVER for state in jobs)
