"""Puts an agent together: identity, spool, probes, receiver, uplink; and takes it apart in the right order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from misstep.agent.context import Context
from misstep.agent.coverage import Coverage
from misstep.agent.identity import host as find_host
from misstep.agent.loop import Agent
from misstep.agent.otlp import Envelope
from misstep.agent.probe import OK
from misstep.agent.records import WARNING, Records
from misstep.agent.registry import probes
from misstep.agent.spool import Spool
from misstep.agent.target import Finder
from misstep.agent.uplink import Uplink
from misstep.agent.workload import Workload
from misstep.core import __version__, names
from misstep.core.client import endpoint_file
from misstep.core.clock import SystemClock
from misstep.core.settings import Settings


@contextmanager
def assemble(settings: Settings) -> Iterator[Agent]:
    """An agent that is ready to run; on leaving, it has sent what it could and its spool is closed.

    Raises:
        MisstepError: it cannot start.
    """
    data = str(settings.data)
    finder = Finder(
        settings.collector_url, os.environ.get("MISSTEP_ENDPOINT_FILE") or str(endpoint_file(settings.data))
    )
    host = find_host(data)
    clock = SystemClock()

    def tell_gap(out: Records, kind: str, count: int, reason: str) -> None:
        out.event(
            "agent.gap",
            entity=host.entity,
            body=reason,
            severity=WARNING,
            attributes={names.DROPPED: count, names.DROPPED_KIND: kind},
        )

    spool = Spool(
        os.path.join(data, "agent"),
        limit=settings.agent.spool_bytes,
        age=settings.agent.spool_age,
        gap_event=tell_gap,
        host_boot=host.boot,
        clock=clock,
    )
    coverage = Coverage(host.entity)
    coverage.report("agent", OK)
    context = Context(settings, host, spool, Workload(host.id, settings.site), coverage, clock)
    uplink = Uplink(
        spool,
        Envelope(host.resource, "misstep.agent", __version__),
        finder,
        coverage,
        clock,
        agent=host.agent,
        token=settings.token,
    )
    agent = Agent(context, probes(context), watch=uplink.watch)
    try:
        uplink.watch()
        yield agent
    finally:
        agent.close()
        uplink.close()
        spool.close()
