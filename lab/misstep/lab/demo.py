"""`misstep demo`: a real job, a real fault, and the verdict held against the ledger."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from misstep.core.clock import SECOND
from misstep.core.exits import Exit
from misstep.lab import scenarios
from misstep.lab.household import Household
from misstep.lab.jobs import ENDED
from misstep.lab.narration import Narration
from misstep.lab.progress import FaultWatch
from misstep.lab.scenarios import Scenario
from misstep.lab.service import Service

PATIENCE = 60.0
"""Seconds of the collector's ticks after the job's start until a missing verdict is a wrong one."""
LAG = 120.0
"""Seconds by which the ticks of a collector on an overloaded machine may be late."""
LATE = 30
"""Seconds by which what is told may be older than what was told before."""
STEADY = 3.0
"""Seconds for which a verdict must stand unchanged where the job does not end."""


class Render(Protocol):
    """Draws an incident."""

    def __call__(self, incident: dict[str, Any], *, color: bool, width: int) -> str:
        """The verdict as text."""
        ...


def run_demo(
    name: str, *, render: Render, keep: bool = False, json: bool = False, data: Path | None = None
) -> Exit:
    """Run a scenario to its verdict.

    Args:
        name: a scenario of `misstep.lab.scenarios`.
        render: draws an incident; front ends own how it looks.
        keep: leave everything up after the verdict, until Ctrl-C.
        json: print the incident as JSON instead.
        data: where to keep what was recorded; by default it goes away with the demo.

    Raises:
        SettingsError: there is no such scenario.
        MissingExtraError: Ray or torch is not installed.
        UnavailableError: Ray, collector or agent did not start.
    """
    scenario = scenarios.find(name)
    color = "NO_COLOR" not in os.environ
    narration = Narration(color=color and sys.stderr.isatty())
    with Household() as home:
        demo = _kind(scenario)(scenario, home, narration, data)
        demo.require()
        demo.start()
        verdict = demo.follow()
        _show(verdict, scenario, render, json, color and sys.stdout.isatty())
        outcome = _judge(verdict, scenario, narration)
        if keep:
            demo.keep()
        narration.step("Shutting down")
    return outcome


class Verdict:
    """What Misstep says at the end, and when the fault was.

    Attributes:
        incidents: those that stand.
        instant: of the fault, Unix nanoseconds; None if it did not happen.
        seen: when the API first named what stands at the end.
        job: how the job ended, or RUNNING.
    """

    def __init__(self, incidents: list[dict[str, Any]], instant: int | None, seen: int, job: str) -> None:
        self.incidents = incidents
        self.instant = instant
        self.seen = seen
        self.job = job


class Demo(ABC):
    """One run of a scenario; what kind of job it is, subclasses know."""

    def __init__(self, scenario: Scenario, home: Household, narration: Narration, data: Path | None) -> None:
        self._scenario = scenario
        self._home = home
        self._narration = narration
        self._service = Service(home, data)
        self._progress = home.folder / "progress.jsonl"
        self._client = self._service.client()
        self._watch: FaultWatch | None = None
        self._pid = 0

    @abstractmethod
    def require(self) -> None:
        """See whether what it needs is installed.

        Raises:
            MissingExtraError: it is not.
        """

    @abstractmethod
    def begin(self) -> None:
        """Start Misstep and the job, and watch for its fault."""

    @abstractmethod
    def job_status(self, last: str) -> str:
        """RUNNING, or one of `misstep.lab.jobs.ENDED`."""

    @abstractmethod
    def is_mine(self, session: Mapping[str, object]) -> bool:
        """Whether a session of the collector is this job's."""

    def also(self, shell: str) -> list[str]:
        """Commands to try while it stays up, besides those that fit every job; ours begin with `shell`."""
        return []

    def start(self) -> None:
        """Tell what is done, and do it."""
        self._narration.step(f"Scenario {self._scenario.name}: {self._scenario.summary}")
        self._narration.step(
            f"Starting Misstep: collector {self._service.url}, agent {self._service.agent_url}"
        )
        self.begin()

    def follow(self) -> Verdict:
        """Tell what is seen until the verdict stands."""
        deadline, enough = time.monotonic() + PATIENCE + LAG, time.time_ns() + PATIENCE * SECOND
        session, job, steady = "", "RUNNING", _Steady()
        assert self._watch is not None
        try:
            while time.monotonic() < deadline:
                time.sleep(0.5)
                job = job if job in ENDED else self.job_status(job)
                session = session or self.session()
                if not session:
                    self._narration.waiting("Misstep has not heard of this job yet")
                    continue
                answer = self._client.get("incidents", session=session)
                self._tell(session, int(answer["as_of_ns"]))
                steady.see(answer)
                self._narration.waiting(self._what_is_awaited(job, answer["incidents"]))
                if self._final(job, answer, steady) or answer["as_of_ns"] > enough:
                    return Verdict(answer["incidents"], self._watch.instant, steady.first_seen, job)
            incidents = self._client.get("incidents", session=session)["incidents"] if session else []
            return Verdict(incidents, self._watch.instant, steady.first_seen, job)
        finally:
            self._watch.close()

    def keep(self) -> None:
        """Stay up until Ctrl-C, and say what to try."""
        program = "misstep" if shutil.which("misstep") else str(Path(sys.executable).with_name("misstep"))
        shell = f"MISSTEP_ENDPOINT_FILE={self._service.endpoint_file} {program}"
        for line in (
            "",
            "Everything stays up until Ctrl-C. Try, in another terminal:",
            f"  {shell} diagnose",
            f"  {shell} logs --grep Error",
            f"  {shell} diagnose --json",
            f"  curl -s {self._service.url}/api/misstep/v1/sessions",
            *(f"  {line}" for line in self.also(shell)),
        ):
            print(line, file=sys.stderr, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print(file=sys.stderr)

    def _tell(self, session: str, now: int) -> None:
        since = now - LATE * SECOND
        self._narration.timeline(self._client.get("timeline", session=session, since=since)["entries"])

    def _final(self, job: str, answer: Mapping[str, Any], steady: _Steady) -> bool:
        if self._scenario.blame is None:
            return job in ENDED and bool(answer["settled"])
        if not answer["incidents"]:
            return job in ENDED and bool(answer["settled"]) and self._happened()
        return bool(answer["settled"]) or steady.seconds() >= STEADY

    def _happened(self) -> bool:
        return self._watch is not None and self._watch.instant is not None

    def _what_is_awaited(self, job: str, incidents: list[Any]) -> str:
        if incidents:
            return "an incident is open; waiting for the rest of the evidence"
        if self._happened():
            return "the fault happened; waiting for the verdict"
        return f"the job is {job.lower()}"

    def session(self) -> str:
        """The job's session, or empty while nobody has heard of it."""
        for session in self._client.get("sessions")["sessions"]:
            if self.is_mine(session):
                return str(session["session"])
        return ""


class _Steady:
    """For how long the incidents have named the same causes and entities, by the collector's ticks."""

    def __init__(self) -> None:
        self._named: object = None
        self._since = self._now = 0
        self.first_seen = 0

    def see(self, answer: Mapping[str, Any]) -> None:
        """Take the newest answer."""
        named = [(i["id"], i["cause"], i["blamed"][:1]) for i in answer["incidents"]]
        self._now = int(answer["as_of_ns"])
        if named != self._named:
            self._named, self._since, self.first_seen = named, self._now, time.time_ns()

    def seconds(self) -> float:
        """Since the last change."""
        return (self._now - self._since) / SECOND


def _show(verdict: Verdict, scenario: Scenario, render: Render, as_json: bool, color: bool) -> None:
    if as_json:
        single = verdict.incidents[0] if len(verdict.incidents) == 1 else {"incidents": verdict.incidents}
        print(json.dumps(single, indent=2))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    for incident in verdict.incidents:
        print(f"\n{render(incident, color=color, width=width)}\n", flush=True)


def _judge(verdict: Verdict, scenario: Scenario, narration: Narration) -> Exit:
    """Hold the verdict against the ledger and say how it went."""
    named = [_named(incident) for incident in verdict.incidents]
    expected = [str(scenario.blame)] if scenario.blame else []
    if scenario.blame is None and verdict.job != "SUCCEEDED":
        narration.step(f"✗ The job did not succeed: it is {verdict.job}.")
        return Exit.WRONG_VERDICT
    if named != expected:
        narration.step("✗ The verdict is not what was done.")
        narration.step(f"    done:    {', '.join(expected) or 'nothing; the job is healthy'}")
        narration.step(f"    verdict: {', '.join(named) or 'none'}")
        return Exit.WRONG_VERDICT
    if scenario.blame is None:
        narration.step("✓ The job succeeded, and no incident was opened.")
        return Exit.OK
    text = f"✓ The verdict is what was done: {scenario.blame}"
    if verdict.instant is not None:
        latency = (verdict.seen - verdict.instant) / SECOND
        text += f", {latency:.1f} s after it happened"
    narration.step(f"{text}.")
    return Exit.OK


def _named(incident: Mapping[str, Any]) -> str:
    blamed = (incident.get("blamed") or [{}])[0]
    return f"{incident['cause']} → {blamed.get('kind', 'nobody')} {blamed.get('name', '')}"


def _kind(scenario: Scenario) -> type[Demo]:
    if scenario.loses_gpu is not None:
        from misstep.lab.gpu_job import GpuDemo

        return GpuDemo
    if scenario.ranks:
        from misstep.lab.training import TrainingDemo

        return TrainingDemo
    from misstep.lab.pipeline import PipelineDemo

    return PipelineDemo
