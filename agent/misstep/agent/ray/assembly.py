"""The probes of Ray, in the order in which they are called."""

from __future__ import annotations

from misstep.agent.context import Context
from misstep.agent.probe import Probe
from misstep.agent.ray.dashboard import RayDashboard
from misstep.agent.ray.logs import RayLogs
from misstep.agent.ray.scrape import RayMetrics
from misstep.agent.ray.sessions import RaySessions


def probes(context: Context) -> list[Probe]:
    """Sessions first: the others read what it found.

    Raises:
        UnavailableError: the port of the receiver is taken.
    """
    sessions = RaySessions(context)
    return [
        sessions,
        RayLogs(context, sessions),
        RayMetrics(context, sessions),
        RayDashboard(context, sessions),
    ]
