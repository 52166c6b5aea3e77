"""The catalogue of causes. To add one: a module with its claim, an entry here, a runbook page, a fault in the lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from misstep.diagnosis.case import Case
from misstep.diagnosis.context import Context
from misstep.diagnosis.observation import Observation

LAYERS = ("hardware", "kernel", "node", "process", "scheduling", "environment", "code", "driver")
"""Lower comes first: what happens below explains what happens above."""


class Blamed(NamedTuple):
    """An entity that an incident names."""

    kind: str
    id: str
    name: str
    attributes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The entity as an incident carries it."""
        return {"kind": self.kind, "id": self.id, "name": self.name, "attributes": self.attributes}


@dataclass(slots=True)
class Claim:
    """That a cause explains a case.

    Attributes:
        score: how directly the evidence says so, 0 to 1; the higher claim on a case wins.
        ripe: whether it is time to say so; a fault that may still heal is not ripe.
        healed: whether it has healed by itself.
        key: two claims of one cause with the same key are one fault that repeats.
        decisive: observations that are the cause itself; the others are symptoms and consequences.
        extra: further observations for the chain.
        until: when it is time to say so if nothing changes, Unix nanoseconds; 0 where that is not known.
        patience: why not sooner.
        lasting: the harm is done though the job gets on and ends well: time lost, a wrong result.
    """

    blamed: list[Blamed]
    title: str
    sentence: str
    action: list[str]
    score: float
    decisive: tuple[Observation, ...]
    key: str
    ripe: bool = True
    healed: bool = False
    extra: tuple[Observation, ...] = ()
    impact: str = ""
    more: tuple[str, ...] = ()
    lasting: bool = False
    until: int = 0
    patience: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """An entry of the catalogue.

    Attributes:
        explains: kinds of observations that it can explain.
        contradicted: kinds that speak against it when they are in the same case.
        needs: sources that must have been readable before their silence speaks against it.
        claim: makes the claim on a case, or None.
        silence: what to say when a needed source was readable and said nothing; ``{node}`` is filled in.
        rivals: causes that are mentioned as considered when this one wins.
    """

    id: str
    title: str
    layer: str
    severity: str
    explains: frozenset[str]
    contradicted: frozenset[str]
    needs: tuple[str, ...]
    claim: Callable[[Case, Context], Claim | None]
    silence: str
    rivals: tuple[str, ...]

    @property
    def runbook(self) -> str:
        """Path of its page."""
        return f"docs/causes/{self.id}.md"

    @property
    def rank(self) -> int:
        """Its layer's place, lower first."""
        return LAYERS.index(self.layer)
