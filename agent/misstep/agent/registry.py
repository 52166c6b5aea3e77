"""Which probes an agent has. A new source of evidence is one more line here."""

from __future__ import annotations

from misstep.agent.context import Context
from misstep.agent.probe import Probe


def probes(context: Context) -> list[Probe]:
    """All probes, in the order in which a tick calls them; what later ones need of earlier ones stands in `Workload`."""
    return []
