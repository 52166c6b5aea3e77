"""What every probe is given."""

from __future__ import annotations

from typing import NamedTuple

from misstep.agent.coverage import Coverage
from misstep.agent.identity import Host
from misstep.agent.spool import Spool
from misstep.agent.workload import Workload
from misstep.core.clock import Clock
from misstep.core.settings import Settings


class Context(NamedTuple):
    """The parts of one agent.

    Attributes:
        spool: `commit` of it may be called from any thread; main-thread probes put their records into `out` instead.
        workload: who belongs to the workload.
        coverage: where states of sources are reported.
    """

    settings: Settings
    host: Host
    spool: Spool
    workload: Workload
    coverage: Coverage
    clock: Clock
