"""Holds outcomes against the ledger and draws the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from misstep.lab.cases.ledger import Name
from misstep.lab.cases.runner import Outcome


@dataclass(frozen=True)
class Score:
    """How one case went.

    Attributes:
        cause: the first incident names the right cause; None where silence was right.
        entity: it blames the right entity.
        alarms: incidents that should not stand.
        exit: the command ended as it does alone.
    """

    outcome: Outcome
    cause: bool | None
    entity: bool | None
    alarms: int
    exit: bool

    @property
    def right(self) -> bool:
        """Cause, entity and silence, all as they should be."""
        return self.cause is not False and self.entity is not False and not self.alarms and self.exit


def score(outcome: Outcome) -> Score:
    """Compare with the ledger; the best of several incidents counts, the others are false alarms."""
    case, incidents = outcome.case, outcome.incidents
    ended = outcome.exit is None if case.hangs else outcome.exit == case.exit
    if not case.cause:
        # Of a training job, what is said and taken back was said without need: nothing that it does heals by itself.
        noise = len(outcome.recovered) if case.ranks and not case.restarts else 0
        return Score(outcome, None, None, len(incidents) + noise, ended)
    standing = incidents if case.passes else []
    if case.passes:
        incidents = outcome.recovered
    pairs = [(i["cause"] == case.cause, _blames(i, case.entities)) for i in incidents]
    cause, entity = max(pairs, default=(False, False), key=lambda pair: (all(pair), pair))
    return Score(outcome, cause, entity, max(0, len(incidents) - 1) + len(standing), ended)


def verdict(incident: dict[str, Any]) -> str:
    """Cause and blamed entity on one line."""
    blamed = (incident.get("blamed") or [{}])[0]
    return f"{incident['cause']} → {blamed.get('kind', '')} {blamed.get('name', '')}"


def _blames(incident: dict[str, Any], entities: Sequence[Name]) -> bool:
    blamed = (incident.get("blamed") or [{}])[0]
    return any(blamed.get("kind") == kind and name in ("", blamed.get("name")) for kind, name in entities)


def row(one: Score) -> str:
    """One line of the table."""
    outcome = one.outcome
    marks = "".join(" ✓" if ok else " ·" if ok is None else " ✗" for ok in (one.cause, one.entity, one.exit))
    got = " | ".join(map(verdict, outcome.incidents)) or "silence"
    if outcome.recovered and not outcome.incidents:
        got += f", before: {verdict(outcome.recovered[0])}"
    notes = f" (+{len(outcome.recovered)} recovered)" if outcome.recovered else ""
    notes += "" if outcome.settled or outcome.case.hangs else " (never settled)"
    notes += f" (diagnosis {outcome.lag:.0f} s behind)" if outcome.lag > 5 else ""
    if not one.exit:
        notes += f" (exit {outcome.exit}, expected {'none' if outcome.case.hangs else outcome.case.exit})"
    after = f"{outcome.after:6.1f}" if outcome.after is not None else "     -"
    sign = "✓" if one.right else "✗"
    return f"{sign} {outcome.case.name:<24}{marks}  {one.alarms:>2}  {after}  {outcome.seconds:5.1f}  {got}{notes}"


HEADER = f"  {'case':<24} c e x  fa   after  total  verdict"


def summary(scores: Sequence[Score]) -> str:
    """The totals."""
    loud = [s for s in scores if s.outcome.case.cause]
    quiet = [s for s in scores if not s.outcome.case.cause]
    return (
        f"{sum(s.right for s in scores)}/{len(scores)} right · cause {sum(bool(s.cause) for s in loud)}/{len(loud)}"
        f" · entity {sum(bool(s.cause and s.entity) for s in loud)}/{len(loud)}"
        f" · silent {sum(not s.alarms for s in quiet)}/{len(quiet)}"
        f" · false alarms {sum(s.alarms for s in scores)} · exit status kept {sum(s.exit for s in scores)}/{len(scores)}"
    )
