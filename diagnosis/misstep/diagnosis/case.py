"""Cases: observations that belong together, because they are about the same process, actor, error or node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from misstep.diagnosis.observation import Observation

_PER_JOB = ("raise/", "environment/", "failed/", "waits/", "object/")
"""Links that mean the same fault only within one job."""


@dataclass(slots=True)
class Case:
    """Observations that one cause should explain, ordered by time."""

    observations: list[Observation] = field(default_factory=list)
    links: set[str] = field(default_factory=set)

    def add(self, observation: Observation) -> None:
        """Take one more observation."""
        if observation not in self.observations:
            self.observations.append(observation)
            self.observations.sort(key=lambda one: one.order)
            self.links |= observation.links

    def absorb(self, other: Case) -> None:
        """Take all of another case's."""
        for observation in other.observations:
            self.add(observation)

    def all(self, *kinds: str) -> list[Observation]:
        """Observations of these kinds, oldest first."""
        return [one for one in self.observations if one.kind in kinds]

    def first(self, *kinds: str) -> Observation | None:
        """The oldest observation of these kinds."""
        return next(iter(self.all(*kinds)), None)

    def fact(self, name: str, *kinds: str) -> Any:
        """The first value that any observation (of these kinds) knows for a fact; None if none does."""
        for one in self.observations:
            if not kinds or one.kind in kinds:
                value = one.facts.get(name)
                if value not in (None, "", 0, (), {}):
                    return value
        return None

    def facts(self, name: str, *kinds: str) -> list[Any]:
        """Every value of a fact, without repetition, oldest first."""
        found: list[Any] = []
        for one in self.observations:
            value = one.facts.get(name)
            if (not kinds or one.kind in kinds) and value not in (None, "", 0, (), {}) and value not in found:
                found.append(value)
        return found

    def linked(self, kind: str) -> list[str]:
        """Ids of one kind among the links, sorted: ``linked("ray_worker")``."""
        prefix = kind + "/"
        return sorted(link.removeprefix(prefix) for link in self.links if link.startswith(prefix))

    @property
    def onset(self) -> int:
        """When the first of it happened."""
        return self.observations[0].ts

    @property
    def last(self) -> int:
        """When the last of it happened, repetitions included."""
        return max(int(one.facts.get("last", 0)) or one.ts for one in self.observations)

    @property
    def job(self) -> str:
        """The job that it befell, or empty."""
        return str(self.fact("job") or "")


def gather(observations: Iterable[Observation], jobs: list[str]) -> list[Case]:
    """Put observations that share a link into one case each, oldest case first.

    Args:
        observations: in any order.
        jobs: ids of the session's jobs; where there is one only, what names no job is its.
    """
    cases: list[Case] = []
    for observation in sorted(observations, key=lambda one: one.order):
        job = str(observation.facts.get("job") or (jobs[0] if len(jobs) == 1 else ""))
        links = {f"{link}@{job}" if link.startswith(_PER_JOB) else link for link in observation.links}
        case = Case([observation], links)
        rest = []
        for other in cases:
            if other.links & links:
                other.observations += case.observations
                other.links |= case.links
                case = other
                links = case.links
            else:
                rest.append(other)
        rest.append(case)
        cases = rest
    for case in cases:
        case.observations.sort(key=lambda one: one.order)
    return sorted(cases, key=lambda case: (case.observations[0].order, sorted(case.links)))
